const RIGHT = 0, REWARD = 1, CALLS = 2; // of a cell
const all = (cells, right) => cells.every((cell) => cell && cell[RIGHT] === right);
const has = (cells, right) => cells.some((cell) => cell && cell[RIGHT] === right);
const FILTERS = [
  ["all", "all problems", () => true],
  ["differ", "right in some, wrong in others", (cells) => has(cells, true) && has(cells, false)],
  ["right", "right in all", (cells) => all(cells, true)],
  ["wrong", "wrong in all", (cells) => all(cells, false)],
  ["missing", "not in all runs", (cells) => cells.some((cell) => cell === null)],
];
const state = { filter: "all", search: "", listed: LISTED };

function draw() {
  const keep = FILTERS.find(([name]) => name === state.filter)[2];
  const needle = state.search.toLowerCase();
  const found = DATA.problems.filter(([id, question, cells]) =>
    keep(cells) && (!needle || `${id}\n${question}`.toLowerCase().includes(needle)));
  $("count").textContent = `${found.length} of ${DATA.problems.length} problems`;
  $("rows").replaceChildren(...found.slice(0, state.listed).map(row));
  const more = Math.min(LISTED, found.length - state.listed);
  $("more").replaceChildren(more > 0 ? make("button", { type: "button", text: `Show ${more} more`,
    onclick: () => { state.listed += LISTED; draw(); } }) : "");
}

function row([id, question, cells]) {
  return make("tr", {}, make("th", { scope: "row" }, make("span", { class: "name", text: id }),
    make("span", { class: "asked", text: question })),
  ...cells.map((cell, run) => make("td", {}, cell === null ? "–"
    : make("a", { href: address(DATA.runs[run][1], id) }, judged(cell[RIGHT])),
  cell === null ? null : make("span", { class: "sub",
    text: `${Math.round(cell[CALLS]).toLocaleString("en")} calls${cell[REWARD] === null ? "" : ` · reward ${figure(cell[REWARD])}`}` }))));
}

function total(run) {
  const cells = DATA.problems.map((problem) => problem[2][run]).filter((cell) => cell !== null);
  const known = cells.filter((cell) => cell[RIGHT] !== null);
  const right = known.filter((cell) => cell[RIGHT]).length;
  const calls = cells.reduce((sum, cell) => sum + cell[CALLS], 0);
  return make("td", {},
    make("span", { text: known.length ? `${right} of ${known.length} right` : `${cells.length} problems` }),
    make("span", { class: "sub", text: cells.length ? `${Number((calls / cells.length).toFixed(1)).toLocaleString("en")} calls a problem` : "" }));
}

function begin() {
  $("heads").append(make("th", { scope: "col", text: "Problem" }), ...DATA.runs.map(([title, file]) =>
    make("th", { scope: "col" }, make("a", { href: encodeURIComponent(file), text: title }))));
  $("totals").append(make("th", { scope: "row", text: "All" }), ...DATA.runs.map((_, run) => total(run)));
  $("filter").append(...FILTERS.map(([name, text, keep]) => make("option", { value: name,
    text: `${text} (${DATA.problems.filter((problem) => keep(problem[2])).length})` })));
  const redraw = (name) => (event) => { state[name] = event.target.value; state.listed = LISTED; draw(); };
  $("filter").addEventListener("change", redraw("filter"));
  $("search").addEventListener("input", redraw("search"));
  draw();
}

begin();
