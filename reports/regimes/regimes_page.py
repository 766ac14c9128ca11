"""README.md and map.png of this folder, from the figures alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formats import Cell, amount, goal, p_value, points, unit
from margins import SEEDS, headline
from recipe_page import recipe

from nabla_eval.probing.verdict import WEAK
from nabla_eval.reporting.figures import COLOURS, MARKERS, new_figure, to_bytes

HEADS = ("head on the frozen trunk", "head, trained with the trunk", "head, in place")
# The comparisons: which methods are left out. Both sides without right tokens, then all.
GOLD = (*HEADS, "aligned G", "aligned G, in place")
COMPARED = (
    ("nothing trained on right tokens", GOLD), ("anything but heads", HEADS), ("everything", ())
)  # fmt: skip


def write_page(figures: dict[str, Any], folder: Path) -> None:
    """Write the page and its figure."""
    (folder / "map.png").write_bytes(draw_map(figures))
    (folder / "README.md").write_text(page(figures))


def cells(figures: dict[str, Any]) -> list[tuple[str, Cell]]:
    """Return the cells of beds 1 and 3 with their names."""
    width = [(f"width, K = {c['width']}", c) for c in figures.get("width", [])]
    length = [
        (f"length, L = {c['length']}, K = {c['width']}", c) for c in figures.get("length", [])
    ]
    return width + length


def draw_map(figures: dict[str, Any]) -> bytes:
    """Draw the margin of the best first-order method by cost, without heads and with them."""
    figure, panels = new_figure(10.0, 4.2, columns=2)
    for axes, without, title in zip(
        panels, (HEADS, ()), ("controls without heads", "every control"), strict=True
    ):
        for i, (name, cell) in enumerate(cells(figures)):
            if not cell["learned"]:
                continue
            start = cell.get("length", 0)
            found = [(row["limit"] - start, headline([row], without)) for row in cell["calls"]]
            points = [(x, h["least"]) for x, h in found if h and x <= 40]
            x = [p[0] for p in points]
            axes.plot(
                x, [100 * m["value"] for _, m in points], color=COLOURS[i % 8],
                marker=MARKERS[i % 8], ms=4, label=name,
            )  # fmt: skip
            low, high = ([100 * m[end] for _, m in points] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=COLOURS[i % 8], alpha=0.15, lw=0)
        axes.axhline(0, color="#333333", lw=0.8)
        axes.axhline(5, color="#333333", lw=0.8, ls=":")
        axes.set(title=f"over {title}", xlabel="model calls after the draft")
    panels[0].set_ylabel("least margin, points of errors repaired")
    panels[1].legend(fontsize=7, frameon=False)
    return to_bytes(figure, "png")


# --- words ---


def page(figures: dict[str, Any]) -> str:
    """Return the page."""
    known = [(name, cell) for name, cell in cells(figures) if cell["learned"]]
    parts = [
        "# Where does a gradient pay?",
        SHORT,
        verdict(known),
        WORDS,
        "![margin by cost](map.png)",
        "Margin of the best first-order method over its strongest control at equal model calls, "
        "with its 95 % interval over problems and reward seeds; dotted: the 5 points asked for.",
        ADVICE,
        regimes(figures),
        method(figures),
        *(section(name, cell) for name, cell in cells(figures)),
        recipe(figures),
        words(figures.get("words")),
        missing(figures),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def verdict(known: list[tuple[str, Cell]]) -> str:
    """Say whether the goal was met, by the tables."""
    if not known:
        return "**No cell passed its gates, so nothing can be said.**"
    every = [(n, u, headline(c[u])) for n, c in known for u in ("calls", "flops")]
    plain = [(n, u, headline(c[u], HEADS)) for n, c in known for u in ("calls", "flops")]
    ran = min(len(h["least"]["by_seed"]) for _, _, h in every)
    if ran < SEEDS:
        return (
            f"**{ran} of {SEEDS} reward seeds were run. The goal asks for every one, so it is not "
            "judged.**"
        )
    met = [(n, u) for n, u, h in every if h["leads"]]
    led = [(n, u, h) for n, u, h in plain if h["leads"]]
    if met:
        first = (
            "**A first-order method leads every control, heads included, in " + _list(met) + "**"
        )
    else:
        top = max(every, key=lambda found: found[2]["least"]["value"])
        first = (
            f"**In none of the {len(known)} settings does a gradient beat every control by 5 "
            "points (p < 0.01, every reward seed), at equal model calls or at equal FLOPs.** The "
            f"largest margin over the strongest control, {top[2]['rival']}, is "
            f"{points(top[2]['least'])} ({top[0]}, equal {unit(top[1])})."
        )
    free = [headline(c[u], GOLD)["leads"] for _, c in known for u in ("calls", "flops")]
    second = (
        f" Leaving heads out, gradients win {len(led)} of {len(plain)} comparisons (settings, "
        f"equal calls or FLOPs), and {sum(free)} of {len(plain)} where nothing on either side was "
        "trained on right tokens: a plain reward model's gradient against exact scores."
    )
    third = (
        " But a linear head on the reward model's trunk names the right token in one forward pass, "
        "also where the trunk was trained on scores alone and is frozen: the model knows more than "
        "its gradient says. By these tables a gradient is a stopgap for a head that nobody has "
        "trained yet."
        if not met
        else ""
    )
    return first + second + third


def _list(met: list[tuple[str, str]]) -> str:
    return ", ".join(f"{name} (equal {unit(what)})" for name, what in met)


def regimes(figures: dict[str, Any]) -> str:
    """Return the headline comparisons of each cell at equal calls."""
    lines = [
        "## The regimes, at equal calls",
        "",
        "| setting | allowed on both sides | best first-order method | its strongest rival | calls "
        "| margin, points | goal |",
        "| --- | --- | --- | --- | ---: | ---: | --- |",
    ]
    for name, cell in cells(figures):
        if not cell["learned"]:
            lines.append(f"| {name} | not learned (see its gates); counts for nothing | | | | | |")
            continue
        for label, without in COMPARED:
            h = headline(cell["calls"], without)
            lines.append(
                f"| {name} | {label} | {h['ours']} | {h['rival']} | {h['limit']:g} "
                f"| {points(h['least'])} | {goal(h)} |"
            )
    return "\n".join(lines)


SHORT = """**Should you use ∇-Reasoner on a 7B pair?** Not on this evidence. No 7B pair was
measured, and on these tasks it gained nothing over its twin, the same search without the gradient.
Run [`nabla-eval probe`](../../docs/probe.md) on your pair; unless it says *pays*, search without
gradients. (For a pair made so that its reward is nearly a sum over tokens it says *pays*,
correctly, and even there a regression of rewards on tokens, without gradients, gains more:
[its last table](../../docs/probe.md#does-the-margin-come-true).) This page asks another question:
does a gradient help that only *orders* tokens, for the reward model to score?"""

WORDS = """Words of this page. *K*: plausible tokens at a place; *L*: sites of a response, places
that may be wrong. *Exact-k*: the policy's first k tokens, each scored; *sequential verify*: the
same until one is good enough. *G*: the linear estimate of each token's reward from one backward
pass, at the token that is there (*first choice*; `probe` calls it hard) or at the policy's mean
embedding (mean). *Aligned G*: that of a reward model trained to rank right tokens by it. *Head*: a
linear layer on the reward model's trunk, the layers below its score, that names the right token.
*In place*: all bad sites are replaced at once, and nothing is rolled out; *Gibbs with gradients*:
so are all single exchanges that one backward pass accepts. In settings, β weighs G against log π, m
tokens are scored (*unverified*: none), θ is the score at which that stops, and a round replaces all
bad sites once."""

ADVICE = f"""## What to take from it, with a pair of your own

Run `nabla-eval probe` on the pair and some 200 problems, and read its sections beside this map.

- **room**: without a head, score all tokens where 3 are plausible. With 8, a ranking
  by the gradient wins at a budget of 2 calls only; with 32 below 16; with 128 at all that were
  tried (to 32).
- **reach**: on 128 and 256 sites ∇-Reasoner (every position free; AdamW 0.01 and 0.1, SGD 100)
  repairs about as little as its twin, 0 to 8 % at the largest budget: a step on logits has to win a
  draw, one site at a time. What leads is a gradient that ranks tokens and takes no step on logits.
- **fidelity**: read it against the policy's ranking, and expect it to fall as the list of plausible
  tokens grows (first choices, below). G never came near the exact scores that it is a slope of, so
  let it order the list and let exact scores decide (for process rewards `method=exact_top_k`,
  `sequential_verify` and `prefix_gradient` do this; heads and alignment are in this folder alone).
- **advantage**: it is over the twin. Compare with best-of-N at the same calls too
  (`nabla-eval report scaling`).
- **reward**: with right tokens at hand, train a linear head on the reward model's trunk before you
  align its gradient: it costs one forward pass, no second derivatives, and leaves the scores alone.
  Aligning while the model learns made its scores worse (least AUC below), so verifying with them
  stops helping; aligning a model that has converged did not (the recipe's tables). With a weak
  reward model (AUC within a question below {WEAK:g}, as the probe has it; `words`: .777)
  ∇-Reasoner and its twin seem to get worse with N, and best-of-N and DVTS do not (*Words*, 32
  problems): mend the reward model before any search.
- **verdict**: these are small models of a made task with exact labels. The map says which
  comparison to make on your pair, not what it will give."""


def missing(figures: dict[str, Any]) -> str:
    """Say what was not measured."""
    lines = ["## What is not in this map", ""]
    if "length" not in figures:
        lines.append(
            "- **Bed 3, length** (`length_bed.py`): not run to its end; reports/LOG.md has a first "
            "look at one reward seed."
        )
    if "recipe" not in figures:
        lines.append("- **Bed 2, recipe** (`recipe_bed.py`): not run.")
    if "countdown" not in figures:
        lines.append("- **Bed 2 on Countdown** (`countdown_bed.py`): not run.")
    return "\n".join([*lines, MISSING])


MISSING = """- **The prototype itself**, whose .946 against .924 at the same calls came with a
  calculator bed, joint alignment and right tokens at first errors, all at once. Its code and data
  are not in this repository's history, only the figures.
- **More than 10 test drafts a cell** in bed 3, and seconds of a machine that did nothing else.
- **More than one seed and one trained pair** in bed 4, and a reward model there that passes the
  gate.
- **Steps that depend on each other**, and facts that no training response showed: problems are new
  here, the 48 facts are not. That favours whatever memorises them, heads above all."""


def seeds(figures: dict[str, Any]) -> str:
    """Return how many reward seeds there are."""
    count = len(figures["width"][0]["auc"]["plain"])
    return f"{count} seeds" + ("" if count >= SEEDS else f" of the {SEEDS} that are asked for")


def method(figures: dict[str, Any]) -> str:
    """Say how it was measured."""
    versions = ", ".join(f"{k} {v}" for k, v in figures.get("versions", {}).items())
    return f"""## How it was measured

    bash reports/regimes/run.sh

A step's result is one token of 128. Which is right follows from two symbols of the question (48
facts, 576 situations). The policy is made: K plausible values, the right one among them, ranked by
noise with a slight lean to the right one. Reward models (0.1 M parameters;
{seeds(figures)}) learn to say whether a step is right; one kind also trains a head that
predicts the right token (a linear layer beside the score), one aligns its gradient by double
backpropagation (β = 3), both from the same 16 right tokens an optimiser step. Another head is
trained on the plain model's frozen trunk. Gates, before any decoding: same-place AUC of the exact
scores at least .9 for every seed, right token
outside the policy's first two in at least 40 % of errors.

Every method has settings (β, candidates verified, threshold, rounds), tuned on validation problems
at each cost limit and reported on test problems; none is in both. Intervals are 95 %, with problems
(bed 1: situations) and reward seeds both random; p is of the exact sign-flip test over problems. A
model call is a token written or scored; a gradient of one prefix counts 2, of a whole response 4.
{versions}."""


def section(name: str, cell: Cell) -> str:
    """Return the tables of a cell."""
    auc = cell["auc"]["plain"] if isinstance(cell["auc"], dict) else cell["auc"]
    both = cell["auc"].get("aligned") if isinstance(cell["auc"], dict) else None
    aligned = f" (aligned: {min(both):.3f} to {max(both):.3f})" if both else ""
    gate = "passed" if cell["learned"] else "**not learned**"
    lines = [
        f"## {name[0].upper()}{name[1:]}", "",
        f"Gates {gate}: same-place AUC {min(auc):.3f} to {max(auc):.3f} over seeds{aligned}, right "
        f"token outside the policy's first two in {100 * cell['outside']:.0f} % of errors.", "",
    ]  # fmt: skip
    if not cell["learned"]:
        return "\n".join(lines[:-1])
    if "first" in cell:
        firsts = ", ".join(
            f"{ranking} {100 * sum(v) / len(v):.0f}" for ranking, v in cell["first"].items()
        )
        lines += [
            f"Right token first among the plausible ones, in %, mean over seeds: {firsts}.",
            "",
        ]
    wanted = _shown(cell)
    families = list(cell["calls"][-1]["at"])
    heading = [f"{limit:g}" for limit in wanted]
    lines += [
        f"Errors repaired within a budget of calls, in % (test; {_start(cell)}):", "",
        "| method | " + " | ".join(heading) + " |", "| --- |" + " ---: |" * len(heading),
    ]  # fmt: skip
    rows = {row["limit"]: row for row in cell["calls"]}
    for family in families:
        found = [rows[limit]["at"].get(family) for limit in wanted]
        shown = [f"{100 * f['right']:.1f}" if f else "" for f in found]
        lines.append(f"| {family} | " + " | ".join(shown) + " |")
    lines += ["", *margin_table(cell)]
    return "\n".join(lines)


def _shown(cell: Cell) -> list[float]:
    limits = [row["limit"] for row in cell["calls"]]
    if "length" not in cell:
        return limits
    extra = (1, 2, 5, 6, 10, 16, 25, 40)
    return [x for x in limits if x - cell["length"] - 1 in extra or x >= 2 * cell["length"]]


def _start(cell: Cell) -> str:
    return f"the draft takes {cell['length']} of them" if "length" in cell else "after the draft"


def margin_table(cell: Cell) -> list[str]:
    """Return the headline comparisons at equal calls, FLOPs and seconds."""
    lines = [
        "| equal | allowed on both sides | limit | first-order | its strongest rival "
        "| margin, points | p | by reward seed | goal |",
        "| --- | --- | ---: | --- | --- | ---: | ---: | ---: | --- |",
    ]
    for what in ("calls", "flops", "seconds"):
        if what not in cell:
            continue
        for label, without in COMPARED:
            h = headline(cell[what], without)
            if not h or (not h["right"] and not h["theirs"]["right"]):
                continue  # nothing was repaired by either
            seeds = ", ".join(f"{100 * x:+.1f}" for x in h["least"]["by_seed"])
            lines.append(
                f"| {unit(what)} | {label} | {amount(h['limit'], what)} "
                f"| {h['ours']} ({h['setting']}), {100 * h['right']:.1f} % "
                f"| {h['rival']} ({h['theirs']['setting']}), {100 * h['theirs']['right']:.1f} % "
                f"| {points(h['least'])} | {p_value(h['least']['p'])} | {seeds} "
                f"| {goal(h)} |"
            )
    return lines


def words(found: Cell | None) -> str:
    """Return the tables of bed 4."""
    if not found:
        return ""
    sizes = sorted({row["n"] for row in found["rows"]})
    rows = {(row["method"], row["n"]): row for row in found["rows"]}
    lines = [
        "## Words: a trained policy that writes sentences", "",
        f"{found['problems']} test problems of the pair `words`, one seed; right answers in %, "
        "and model calls a problem. The reward model's AUC within a question is .777 (the pair's "
        "card), below the gate of the other beds: this bed has no part in the verdict above.", "",
        "| method | " + " | ".join(f"N = {n}" for n in sizes) + " |",
        "| --- |" + " ---: |" * len(sizes),
    ]  # fmt: skip
    for method, name in NAMES.items():
        shown = [rows.get((method, n)) for n in sizes]
        told = [
            f"{100 * r['accuracy']['value']:.0f} ({r['model_calls']:.0f})" if r else ""
            for r in shown
        ]
        lines.append(f"| {name} | " + " | ".join(told) + " |")
    lines += [
        "",
        "∇-Reasoner less the best mixture of a rival's runs at the same cost, in points, by "
        "problem (as `nabla-eval report scaling` compares; p is not corrected for their number; "
        "empty where the rival costs less or more at every N):", "",
        "| equal | over | " + " | ".join(f"N = {n}" for n in sizes) + " |",
        "| --- | --- |" + " ---: |" * len(sizes),
    ]  # fmt: skip
    margins = {(m["unit"], m["rival"], m["n"]): m for m in found["margins"]}
    for what in ("model_calls", "flops"):
        for rival in ("twin", "best-of-n", "dvts"):
            each = [margins.get((what, rival, n)) for n in sizes]
            told = [f"{points(m)}, p {p_value(m['p'])}" if m else "" for m in each]
            equal = "FLOPs" if what == "flops" else "calls"
            lines.append(f"| {equal} | {NAMES[rival]} | " + " | ".join(told) + " |")
    few, many = (
        {method: 100 * rows[method, n]["accuracy"]["value"] for method in ("nabla", "twin")}
        for n in (sizes[0], sizes[-1])
    )
    if all(many[method] < few[method] for method in few):
        lines += [
            "",
            f"From N = {sizes[0]} to {sizes[-1]} ∇-Reasoner falls from {few['nabla']:.0f} to "
            f"{many['nabla']:.0f} % and its twin from {few['twin']:.0f} to "
            f"{many['twin']:.0f} %: as if a search that climbs the reward token by token found "
            "what this reward model overrates, with a gradient or without. Choosing among whole "
            "samples does not fall "
            "like that. One problem is 3 points here, so these are hints.",
        ]
    return "\n".join(lines)


NAMES = {"nabla": "∇-Reasoner", "twin": "its twin", "best-of-n": "best-of-N", "dvts": "DVTS"}
