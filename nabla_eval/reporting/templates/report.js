"use strict";
// Sorts a table by a click on a heading, and narrows the table of problems. Keeps nothing.
const words = new Intl.Collator(undefined, { numeric: true });

// The first number of a cell (of "87.0 ± 2.4 %", "<0.001", "1,163"); NaN for none.
function value(cell) {
  return Number.parseFloat(cell.textContent.replaceAll(",", "").replace(/^[\s<]+/, ""));
}

function compare(left, place, sign) {
  const cell = (row) => row.cells[place];
  if (left) return (a, b) => sign * words.compare(cell(a).textContent, cell(b).textContent);
  return (a, b) => { // cells without a number stay last
    const [x, y] = [value(cell(a)), value(cell(b))];
    return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : sign * (x - y);
  };
}

// The first click sorts words upwards and numbers downwards, the second the other way round, the
// third as it was.
function sortable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  if (rows.length < 2) return;
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => {
    const left = head.classList.contains("left");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const turns = left ? ["ascending", "descending", null] : ["descending", "ascending", null];
      const turn = turns[(turns.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (turn) head.setAttribute("aria-sort", turn);
      const sorted = turn ? [...rows].sort(compare(left, place, turn === "ascending" ? 1 : -1)) : rows;
      body.append(...sorted);
    });
  });
}

function searchable(section) {
  const rows = [...section.querySelector("tbody").rows];
  const texts = rows.map((row) => [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase());
  const field = document.createElement("input");
  const count = document.createElement("span");
  const label = document.createElement("label");
  field.type = "search";
  field.autocomplete = "off";
  count.setAttribute("role", "status");
  label.className = "search";
  label.append("Find ", field, " ", count);
  section.querySelector(".scroll").before(label);
  field.addEventListener("input", () => {
    const asked = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    rows.forEach((row, place) => {
      row.hidden = !asked.every((word) => texts[place].includes(word));
      found += !row.hidden;
    });
    count.textContent = asked.length ? `${found} of ${rows.length} rows` : "";
  });
}

document.querySelectorAll("table").forEach(sortable);
const problems = document.getElementById("problems");
if (problems) searchable(problems);
