"use strict";
// Everything shown comes from the data in the page as text: no markup is ever made from it.
const DATA = JSON.parse(document.getElementById("data").textContent);
const LISTED = 500; // problems that are listed at first, and added when asked
const $ = (id) => document.getElementById(id);

function make(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// A number to some decimals; one that would read 0.000 by its first digit.
function figure(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const small = value !== 0 && Math.abs(value) < 0.5 * 10 ** -digits;
  return small ? value.toPrecision(1) : value.toFixed(digits);
}

// Two numbers with as many digits as it takes to see which is larger.
function rise(old, now) {
  let pair, digits = 3;
  do pair = [figure(old, digits), figure(now, digits)];
  while (pair[0] === pair[1] && old !== now && (digits += 1) < 17);
  return pair;
}

function judged(right, unknown = "? unknown") {
  const mark = right === null ? unknown : right ? "✓ right" : "✗ wrong";
  return make("span", { class: right === null ? "" : right ? "right" : "wrong", text: mark });
}

const address = (file, id) => `${encodeURIComponent(file)}#${encodeURIComponent(id)}`;
