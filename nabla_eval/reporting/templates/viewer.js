const PROBLEMS = DATA.problems; // of a large run with what the list shows only
const FIRSTS = DATA.firsts || []; // places of the first problem of each part in the folder
const SCALES = { 1: DATA.scales[0], 2: DATA.scales[1] }; // where a colour is full
const KEPT = 4; // parts in memory
const SHARED = 240; // characters before a revised token that both sides show
const FILTERS = [
  ["all", "all problems", () => true],
  ["wrong-right", "wrong → right", (p) => p.change === "wrong-right"],
  ["right-wrong", "right → wrong", (p) => p.change === "right-wrong"],
  ["stayed-wrong", "stayed wrong", (p) => p.change === "stayed-wrong"],
  ["stayed-right", "stayed right", (p) => p.change === "stayed-right"],
  ["revised", "revised", (p) => p.accepted > 0],
  ["rejected", "candidates, none accepted", (p) => p.judged > 0 && p.accepted === 0],
  ["no-answer", "no answer found", (p) => p.no_answer],
  ["truncated", "cut off at the length limit", (p) => p.truncated],
];
const COLOURS = [
  ["entropy", "entropy", "nats", 1],
  ["norm", "gradient norm", "", 2],
  ["none", "nothing", "", 0],
];
const state = { filter: "all", order: "file", search: "", shown: null, colour: "entropy",
                version: "final", listed: LISTED, problem: null };
const worked = (judged, accepted, moves, drafts) => [
  drafts > 1 ? `${drafts} drafts` : "",
  (moves || drafts > 1) && !judged ? "" : `${judged} candidates, ${accepted} accepted`,
  moves ? `${moves} moves` : "",
].filter(Boolean).join(" · ");

const number = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);
const short = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))));

function changeLabel(problem) {
  const [first, last] = problem.right;
  if (first === last) return make("span", { class: "change" }, judged(last));
  return make("span", { class: "change" }, judged(first), " → ", judged(last));
}

// Parts of a large run: the file of each calls `part`, which keeps those loaded last.
const PARTS = new Map();

function part(number, problems) {
  PARTS.set(number, problems);
  if (PARTS.size > KEPT) PARTS.delete(PARTS.keys().next().value);
}

// All of a problem, at once or when its part is loaded; null where the part is not there.
function whole(place, use) {
  if (!FIRSTS.length) { use(PROBLEMS[place]); return; }
  const number = FIRSTS.findLastIndex((first) => first <= place);
  const found = () => (PARTS.has(number) ? PARTS.get(number)[place - FIRSTS[number]] : null);
  if (found()) { use(found()); return; }
  const done = (event) => { event.target.remove(); use(found()); };
  document.body.append(make("script", { onload: done, onerror: done,
    src: `${encodeURIComponent(DATA.folder)}/part-${number}.js` }));
}

function selected() {
  const keep = FILTERS.find(([name]) => name === state.filter)[2];
  const needle = state.search.toLowerCase();
  const found = PROBLEMS.map((problem, place) => ({ problem, place })).filter(
    ({ problem }) => keep(problem) &&
      (!needle || `${problem.id}\n${problem.question}`.toLowerCase().includes(needle)));
  const keys = { accepted: (p) => p.accepted, steps: (p) => p.judged + p.searched, calls: (p) => p.calls };
  const key = keys[state.order];
  if (key) found.sort((a, b) => key(b.problem) - key(a.problem) || a.place - b.place);
  return found;
}

function drawList() {
  const found = selected();
  const list = $("list");
  list.replaceChildren(...found.slice(0, state.listed).map(({ problem, place }) => {
    const said = worked(problem.judged, problem.accepted, problem.searched, problem.drafts);
    return make("li", {}, make("button", {
      type: "button", "data-place": place, "aria-current": place === state.shown ? "true" : null,
      onclick: () => show(place, true),
    },
    make("span", { class: "name", text: problem.id }), changeLabel(problem),
    make("span", { class: "asked", text: problem.question }),
    make("span", { class: "sub", text: said })));
  }));
  const more = Math.min(LISTED, found.length - state.listed);
  if (more > 0) {
    list.append(make("li", {}, make("button", { type: "button", text: `Show ${more} more`,
      onclick: () => {
        const next = state.listed;
        state.listed += LISTED;
        drawList();
        list.children[next].firstChild.focus();
      } })));
  }
  $("count").textContent = `${found.length} of ${PROBLEMS.length} problems`;
}

function show(place, focus) {
  state.shown = place;
  for (const button of $("list").querySelectorAll("button")) {
    if (Number(button.dataset.place) === place) {
      button.setAttribute("aria-current", "true");
      button.scrollIntoView({ block: "nearest" });
    } else button.removeAttribute("aria-current");
  }
  history.replaceState(null, "", `#${encodeURIComponent(PROBLEMS[place].id)}`);
  whole(place, (problem) => {
    if (state.shown !== place) return; // another one was chosen meanwhile
    state.problem = problem;
    if (problem) drawStory();
    else $("story").replaceChildren(make("h2", { text: PROBLEMS[place].id }),
      make("p", { text: `The folder ${DATA.folder} with the problems belongs beside this page, and it is not there or not whole.` }));
    if (focus) { $("story").focus({ preventScroll: true }); window.scrollTo(0, 0); }
  });
}

function drawStory() {
  const problem = state.problem;
  const others = DATA.others.flatMap(([title, file]) =>
    [" · ", make("a", { href: address(file, problem.id), text: title })]);
  $("story").replaceChildren(
    make("h2", { text: problem.id }),
    others.length ? make("p", { class: "hint" }, "The same problem in ", ...others.slice(1)) : "",
    make("h3", { text: "Problem" }), make("pre", { class: "text", tabindex: "0", text: problem.question }),
    problem.prompt === null ? "" : make("details", { class: "prompt" },
      make("summary", { text: "The whole prompt" }), make("pre", { class: "text", tabindex: "0", text: problem.prompt })),
    outcome(problem),
    make("h3", { text: "Response" }), controls(problem), response(problem),
    make("p", { class: "detail", id: "detail", "aria-live": "polite",
                text: "Point at a token, or step through them with ← and →, to see its numbers." }),
    ...(problem.moves.length ? search(problem.moves) : []),
    ...(problem.choices.length ? chosenTokens(problem.choices) : []),
    ...(problem.samples.length ? samples(problem.samples) : []),
    ...(!problem.steps.length && (problem.moves.length || problem.choices.length || problem.samples.length) ? [] : [
      make("h3", { text: `Candidates (${problem.steps.length})` }),
      ...(problem.steps.length ? candidates(problem)
        : [make("p", { class: "hint", text: "No candidate was judged on this problem." })])]));
}

// What is right, what was answered, and what it took.
function outcome(problem) {
  const revised = problem.final !== null;
  const rewards = rise(...problem.rewards);
  const row = (name, ...said) => [make("dt", { text: name }), make("dd", {}, ...said)];
  const told = (at, more) => row(at ? "Returned" : "First draft", ...said(problem.right[at], problem.answers[at]),
    ` · reward ${rewards[at]}${more}`);
  const work = [worked(problem.judged, problem.accepted, problem.searched, problem.drafts),
    `${number(problem.calls, 0)} model calls`, `ended: ${problem.ended}`];
  const end = { length: " · cut off at the length limit", step: " · cut off in the middle of a step" }[problem.stop];
  return make("dl", { class: "outcome" },
    ...(problem.gold === null ? [] : row("Gold answer", make("code", { text: problem.gold }))),
    ...(revised ? told(0, "") : []), ...told(1, end || ` · ends by ${problem.stop}`),
    ...row("Search", work.filter(Boolean).join(" · ")));
}

function said(right, answer) {
  if (answer !== null) return [judged(right), " · answers ", make("code", { text: answer.replaceAll(/\s+/g, " ") })];
  return [judged(right), right === false ? " · no answer found" : ""];
}

// Tokens that were chosen with the reward model's help: the policy's own, and what was written.
function chosenTokens(choices) {
  const two = ([old, now]) => (old === null && now === null ? "–" : `${number(old)} → ${number(now)}`);
  const row = (choice) => make("tr", { class: choice.replaced ? "replaced" : "" },
    make("td", { text: String(choice.position) }), make("td", { text: number(choice.top_probability) }),
    make("td", {}, make("code", { text: choice.old_text }),
      ...(choice.replaced ? [" → ", make("code", { text: choice.new_text })] : [])),
    make("td", { text: choice.by }), make("td", { text: two(choice.log_probability) }),
    make("td", { text: two(choice.gradient) }), make("td", { text: two(choice.score) }));
  const heads = ["position", "top probability", "token", "by", "log π (nats)", "G (nats)", "score"];
  const replaced = choices.filter((choice) => choice.replaced).length;
  return [make("h3", { text: `Guided tokens (${choices.length}, ${replaced} replaced)` }),
    make("table", { class: "choices" },
      make("tr", {}, ...heads.map((head) => make("th", { text: head }))), ...choices.map(row))];
}

// The moves come depth first: a list in a list for each one that others go on from.
function search(moves) {
  const top = make("ol", { class: "tree" });
  const lists = [top];
  moves.forEach((move, place) => {
    const item = make("li", { class: move.chosen ? "chosen" : "" }, ...moveText(move));
    lists[move.depth].append(item);
    lists.length = move.depth + 1;
    if (place + 1 < moves.length && moves[place + 1].depth > move.depth) {
      lists.push(make("ol", {}));
      item.append(lists[move.depth + 1]);
    }
  });
  const chosen = moves.filter((move) => move.chosen).length;
  const said = chosen ? `${chosen} of ${moves.length} moves lead to the returned response.`
    : "None of the moves alone leads to the returned response.";
  return [make("h3", { text: `Search (${moves.length} moves)` }),
    make("p", { class: "hint", text: said }), top];
}

function moveText(move) {
  const numbers = [move.value === null ? "not valued" : `value ${figure(move.value)}`];
  if (move.visits) numbers.push(`${move.visits} visits`);
  if (move.kind === "step" && ["eos", "stop"].includes(move.stop)) numbers.push("complete");
  return [
    move.chosen ? make("span", { class: "onpath", text: "→ in the answer" }) : null,
    move.kind === "step" ? null : make("span", { class: "kind", text: move.kind }),
    make("code", { text: move.text || "(empty)" }),
    make("span", { class: "sub", text: numbers.join(" · ") }),
    move.note ? make("span", { class: "note", text: move.note }) : null,
  ];
}

function controls(problem) {
  const choice = make("select", { id: "colour", onchange: (event) => {
    state.colour = event.target.value; drawStory(); $("colour").focus();
  } }, ...COLOURS.map(([name, text]) =>
    make("option", { value: name, text, selected: name === state.colour })));
  const [, , unit, column] = COLOURS.find(([name]) => name === state.colour);
  const legend = column && SCALES[column] ? make("span", { class: "legend" }, "0",
    make("span", { class: "ramp", role: "img", "aria-label": "colour scale, pale to strong" }),
    `${short(SCALES[column])}${unit ? ` ${unit}` : ""} or more`) : null;
  const missing = column && !tokensOf(problem).some((token) => token[column] !== null)
    ? make("span", { class: "legend", text: "not in this trace" }) : legend;
  const version = problem.final === null ? null : make("label", {}, "Show ",
    make("select", { id: "version", onchange: (event) => {
      state.version = event.target.value; drawStory(); $("version").focus();
    } }, ...[["final", "returned response"], ["first", "first draft"]].map(([name, text]) =>
      make("option", { value: name, text, selected: name === state.version }))));
  return make("div", { class: "bar" }, version, make("label", {}, "Colour by ", choice), missing);
}

const tokensOf = (problem) =>
  problem.final !== null && state.version === "final" ? problem.final : problem.first;

function describe(token, place) {
  const [text, entropy, norm, by, revised] = token;
  const parts = [`token ${place}: ${JSON.stringify(text)}`];
  if (entropy !== null) parts.push(`entropy ${number(entropy, 3)} nats`);
  if (norm !== null) parts.push(`gradient norm ${short(norm)}`);
  if (by !== null) parts.push(revised ? `revised by candidate ${by + 1}` : `rolled out by candidate ${by + 1}`);
  return parts.join(" · ");
}

function response(problem) {
  const column = COLOURS.find(([name]) => name === state.colour)[3];
  const tokens = tokensOf(problem);
  const box = make("div", { class: "tokens", role: "group", "aria-label": "Response, token by token",
                            onkeydown: step });
  tokens.forEach((token, place) => {
    const [text, , , by, revised] = token;
    const share = column && token[column] !== null && SCALES[column]
      ? Math.min(1, token[column] / SCALES[column]) : 0;
    const said = describe(token, place);
    const tell = () => { $("detail").textContent = said; };
    const kind = revised ? " revised" : by !== null ? " rolled" : "";
    const node = make("span", { class: `token${kind}`, tabindex: place ? "-1" : "0", title: said,
                                onmouseenter: tell, onfocus: tell },
      text.replaceAll("\n", "↵\n") || "∅", revised ? make("sup", { text: String(by + 1) }) : null);
    node.style.setProperty("--heat-share", share.toFixed(3));
    box.append(node);
  });
  if (!tokens.length) box.append("(empty)");
  return box;
}

function step(event) {
  const moves = { ArrowRight: 1, ArrowLeft: -1 };
  const nodes = [...event.currentTarget.querySelectorAll(".token")];
  const at = nodes.indexOf(document.activeElement);
  let next = event.key in moves ? at + moves[event.key] : event.key === "Home" ? 0
    : event.key === "End" ? nodes.length - 1 : -1;
  if (at < 0 || next < 0 || next >= nodes.length) return;
  event.preventDefault();
  nodes[at].tabIndex = -1;
  nodes[next].tabIndex = 0;
  nodes[next].focus();
}

// Each candidate beside what it was to replace, whose text earlier ones have made.
function candidates(problem) {
  let current = problem.start;
  return problem.steps.map((step) => {
    const shared = current.slice(0, step.place);
    const texts = { shared, oldRest: current.slice(step.place + step.old), newRest: step.own.slice(step.new) };
    if (step.verdict === "accepted") current = shared + step.own;
    return candidate(step, texts);
  });
}

const CERTAIN = { certified: "certified: no gradient could change the draw",
  alone: "certified: min_probability allowed no other token", none: "no gradient" };

function candidate(found, { shared, oldRest, newRest }) {
  const kind = found.verdict === "accepted" ? "right" : "wrong";
  const mark = { accepted: "✓ accepted", rejected: "✗ rejected", tie: "= tie" }[found.verdict];
  const rewards = rise(found.old_reward, found.new_reward);
  const side = (title, cls, token, rest, reward) => make("div", {},
    make("h4", { text: `${title}, reward ${reward}` }),
    make("pre", { class: "text", tabindex: "0" }, before(shared), make("span", { class: cls, text: token }), rest));
  const numbers = [`sweep ${found.sweep + 1}`, `entropy ${figure(found.entropy)} nats`,
    `top probability ${figure(found.top_probability)}`,
    CERTAIN[found.gradient] || `gradient norm ${short(found.gradient_norm)}`];
  const end = found.stop === "length" ? " · cut off" : "";
  return make("details", { class: "step", open: found.verdict === "accepted" },
    make("summary", {}, make("span", { text: `${found.index + 1}` }),
      make("span", { class: `verdict ${kind}`, text: mark }),
      make("span", { class: "place", text: `token ${found.position}` }),
      make("span", { class: "change" }, ...said(found.right, found.answer), end),
      make("span", { text: `reward ${rewards.join(" → ")}` }),
      make("code", { class: "around" }, ends(shared, -40), make("span", { class: "old", text: inline(found.old_text) }),
        " ", make("span", { class: "new", text: inline(found.new_text) }), ends(newRest, 40))),
    make("p", { class: "numbers", text: numbers.join(" · ") }),
    make("div", { class: "sides" },
      side("Before", "old", found.old_text, oldRest, rewards[0]),
      side("Candidate", "new", found.new_text, newRest, rewards[1])));
}

const inline = (text) => text.replaceAll("\n", "↵");

// The beginning or the end of a text, in one line.
function ends(text, length) {
  const line = inline(length < 0 ? text.slice(length) : text.slice(0, length));
  return text.length <= Math.abs(length) ? line : length < 0 ? `…${line}` : `${line}…`;
}

// What both sides share: its end, and the rest when asked.
function before(shared) {
  const node = make("span", { class: "shared" });
  if (shared.length <= SHARED + 40) node.append(shared);
  else {
    node.append(make("button", { type: "button", text: `… ${shared.length - SHARED} characters that both share`,
      onclick: () => node.replaceChildren(shared) }), shared.slice(-SHARED));
  }
  return node;
}

// Drafts of which one is returned.
function samples(drafts) {
  return [make("h3", { text: `Drafts (${drafts.length})` }), ...drafts.map((draft) =>
    make("details", { class: "step" },
      make("summary", {}, make("span", { text: `${draft.index + 1}` }),
        make("span", { class: "verdict right", text: draft.returned ? "✓ returned" : "" }),
        make("span", { class: "change" }, ...said(draft.right, draft.answer), draft.stop === "length" ? " · cut off" : ""),
        make("span", { text: `reward ${figure(draft.reward)}` }),
        make("code", { class: "around", text: ends(draft.text, -80) })),
      make("pre", { class: "text", tabindex: "0", text: draft.text })))];
}

function walk(event) {
  const buttons = [...$("list").querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!move || at < 0 || !buttons[at + move]) return;
  event.preventDefault();
  buttons[at + move].focus();
}

function redraw() {
  state.listed = LISTED;
  drawList();
  const found = selected();
  if (found.length && !found.some(({ place }) => place === state.shown)) show(found[0].place, false);
}

// Place of the problem that the address names, -1 without.
function asked() {
  let name = "";
  try { name = decodeURIComponent(location.hash.replace(/^#(problem=)?/, "")); } catch { /* not one of ours */ }
  return PROBLEMS.findIndex((problem) => problem.id === name);
}

function begin() {
  const right = (at) => PROBLEMS.filter((p) => p.right[at] === true).length;
  const known = PROBLEMS.filter((p) => p.right[1] !== null).length;
  const draft = PROBLEMS.filter((p) => p.right[0] !== null).length;
  const parts = [`${PROBLEMS.length} problems`];
  if (draft) parts.push(`first drafts right: ${right(0)}`);
  if (known) parts.push(`answers right: ${right(1)}`);
  for (const [name, key] of [["no answer", "no_answer"], ["cut off", "truncated"]]) {
    const found = PROBLEMS.filter((p) => p[key]).length;
    if (found) parts.push(`${name}: ${found}`);
  }
  const steps = PROBLEMS.reduce((sum, p) => sum + p.judged, 0);
  const accepted = PROBLEMS.reduce((sum, p) => sum + p.accepted, 0);
  const drafts = PROBLEMS.reduce((sum, p) => sum + (p.drafts > 1 ? p.drafts : 0), 0);
  parts.push(worked(steps, accepted, PROBLEMS.reduce((sum, p) => sum + p.searched, 0), drafts));
  $("summary").textContent = parts.join(" · ");
  $("facts").append(...DATA.facts.flatMap(([name, value]) =>
    [make("dt", { text: name }), make("dd", { text: value })]));
  $("filter").append(...FILTERS.map(([name, text, keep]) =>
    make("option", { value: name, text: `${text} (${PROBLEMS.filter(keep).length})` })));
  $("filter").addEventListener("change", (event) => { state.filter = event.target.value; redraw(); });
  $("order").addEventListener("change", (event) => { state.order = event.target.value; redraw(); });
  $("search").addEventListener("input", (event) => { state.search = event.target.value; redraw(); });
  $("list").addEventListener("keydown", walk);
  if (DATA.others.length) $("runs").append(make("a", { href: "index.html", text: "All runs side by side" }));
  addEventListener("hashchange", () => { if (asked() >= 0) show(asked(), false); });
  drawList();
  if (PROBLEMS.length) show(Math.max(0, asked()), false);
  else $("story").replaceChildren(make("p", { text: "This run has no problems." }));
}

begin();
