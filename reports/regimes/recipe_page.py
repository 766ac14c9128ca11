"""The page's part on bed 2: its two factors on made facts, and on Countdown."""

from __future__ import annotations

from typing import Any

import countdown_models
import numpy as np
import recipe_bed
import width_models
from formats import Cell, by_seed, p_value, percent, points
from margins import headline, leads
from numpy.typing import NDArray

from nabla_eval.analysis.intervals import mean


def recipe(figures: dict[str, Any]) -> str:
    """Return the tables of bed 2: its two factors on made facts, then on Countdown."""
    facts, countdown = figures.get("recipe", []), figures.get("countdown", [])
    parts = []
    if facts or countdown:
        parts.append("## Recipe: aligned jointly or late, towards right tokens or its own scores")
    if facts and countdown:
        parts += [recipe_answer(facts, countdown), effects([*facts, *countdown]), RECIPE]
    for cell in facts:
        told = (
            f"Made facts, K = {cell['width']}: right token first by G alone, same-place AUC (least "
            "over seeds), and the margin over sequential verification and exact-k at the calls "
            "where it leads most on validation."
        )
        lines = [
            "| alignment | right first, % (by seed) | AUC | margin, points | p | at calls |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        for kind, values in cell["first"].items():
            shown = [kind, by_seed(values), *_recipe_margin(cell, kind)]
            lines.append(f"| {' | '.join(shown)} |")
        parts += [told, "\n".join(lines)]
    for cell in countdown:
        lines = [
            "| alignment | G, % (by seed) | log π + 3 G | exact scores | AUC | margin, points | p "
            "| at calls |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for kind, values in cell["first"].items():
            others = [percent([v[name] for v in values]) for name in OTHERS]
            shown = [kind, by_seed([v["G"] for v in values]), *others, *_recipe_margin(cell, kind)]
            lines.append(f"| {' | '.join(shown)} |")
        for kind, own in cell["shipped"].items():
            ranked = [percent([own["first"][name]]) for name in ("G", *OTHERS)]
            lines.append(f"| {kind} | {' | '.join(ranked)} | {own['auc']:.3f} | | | |")
        parts += [_countdown(cell), "\n".join(lines)]
    return "\n\n".join(parts)


RECIPE = (
    f"Made facts: {width_models.STEPS} steps jointly, or {recipe_bed.LATE} more after as many "
    "plain ones. Countdown: reward models of the shipped one's size and recipe "
    f"(`reports/embedded`), but batches of {countdown_models.RECIPE.batch} and a false "
    "result in some more responses; "
    f"{countdown_models.RECIPE.steps:,} steps jointly, or {countdown_models.LATE} more after as "
    f"many plain ones. A step aligns at {width_models.GOLD} places: on Countdown half where the "
    "shipped policy is unsure, half at results. *Shipped* is the shipped reward model, as it is or "
    "aligned late. Settings are chosen on validation problems and figures are of test problems; no "
    "reward model was trained on either."
)
OTHERS = ("log π + βG", "exact scores")


def _recipe_margin(cell: Cell, kind: str) -> list[str]:
    """Return a kind's least AUC and its best margin over the controls, with p and calls."""
    auc = f"{min(cell['auc'][kind]):.3f}" + ("" if cell["learned"][kind] else ", gated out")
    h = cell["leads"][kind] if "leads" in cell else _lead(cell, kind)
    return [auc, points(h["least"]), p_value(h["least"]["p"]), f"{h['limit']:g}"]


def _lead(cell: Cell, kind: str) -> Cell:
    return headline(
        [
            {**r, "margins": {kind: r["margins"][kind]}}
            for r in cell["calls"]
            if kind in r["margins"]
        ]
    )


def _countdown(cell: Cell) -> str:
    """Say what a table of Countdown shows, and whether its gates were passed."""
    places = {
        "first errors": "first errors of the shipped policy's samples that were its first choice",
        "results": "results of equations, among K values of a made policy",
    }
    kinds = [kind for kind, learned in cell["learned"].items() if learned]
    gate = (
        "the gates are passed" if len(kinds) == len(cell["learned"])
        else "**gated out**" if not kinds
        else "the gates are passed by " + "; ".join(kinds) + " alone"
    )  # fmt: skip
    return (
        f"Countdown, {places[cell['where']]}, K = {cell['width']} ({cell['errors']} errors of "
        f"{cell['problems']} test problems, {_counts(cell)}; in "
        f"{100 * cell['outside']:.0f} % no right token is among the policy's first two): {gate}. A "
        "right token first by G alone; by the other rankings and by the policy "
        f"({100 * cell['policy']:.1f} %) the wrong one is left out."
    )


def _counts(cell: Cell) -> str:
    plain, joint = (len(cell["first"][kind]) for kind in ("plain", RECIPES[0]))
    command = f"`regimes.py --only countdown --seeds {plain} --joint {joint}`"
    shared = f", of which {joint} jointly" if joint < plain else ""
    return f"{plain} reward seeds{shared}, {command}"


RECIPES = ("joint, right tokens", "joint, own scores", "late, right tokens", "late, own scores")
DIFFERENCES = {
    "right tokens less own scores, jointly": (0, 1),
    "right tokens less own scores, late": (2, 3),
    "late less joint, right tokens": (2, 0),
    "late less joint, own scores": (3, 1),
}


def right_first(cell: Cell) -> list[NDArray[np.float64]]:
    """Return how often G alone is right first, `[seeds]` for each of `RECIPES`."""
    each = [cell["first"][kind] for kind in RECIPES]
    return [np.array([v["G"] if isinstance(v, dict) else v for v in own]) for own in each]


def difference(cell: Cell, name: str) -> Cell:
    """Return what one factor changes at one level of the other, with its interval over seeds."""
    ours, theirs = (right_first(cell)[i] for i in DIFFERENCES[name])
    both = min(len(ours), len(theirs))  # seeds
    found = mean(ours[:both] - theirs[:both])
    return {"value": found.value, "low": found.low, "high": found.high}


def effects(cells: list[Cell]) -> str:
    """Return bed by recipe by supervision: right first by G alone, and what each changes."""
    lines = [
        "A right token first by G alone, in %, then what one factor changes in points, with its "
        "interval over reward seeds; a star marks what the gates leave out:",
        "",
        f"| | {' | '.join(map(_bed, cells))} |",
        "| --- |" + " ---: |" * len(cells),
    ]
    for i, kind in enumerate(RECIPES):
        shown = [
            percent(list(right_first(c)[i])) + ("" if c["learned"][kind] else "*") for c in cells
        ]
        lines.append(f"| {kind} | {' | '.join(shown)} |")
    for name, pair in DIFFERENCES.items():
        shown = [
            points(difference(c, name)) + ("" if _both_learned(c, pair) else "*") for c in cells
        ]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _both_learned(cell: Cell, pair: tuple[int, int]) -> bool:
    return all(cell["learned"][RECIPES[i]] for i in pair)


def _bed(cell: Cell) -> str:
    where = f"Countdown, {cell['where']}" if "where" in cell else "made facts"
    return f"{where}, K = {cell['width']}"


def recipe_answer(facts: list[Cell], countdown: list[Cell]) -> str:
    """Say what bed, recipe and supervision change, by the tables."""
    every = [*facts, *countdown]
    best = [most(c) for c in every]
    by_bed = ", ".join(
        f"{points(own['least'])}{star} ({_bed(c)}: {kind})"
        for c, (kind, own, star) in zip(every, best, strict=True)
    )
    joint_more, late_more, later_right, later_own = (_listed(every, n) for n in DIFFERENCES)
    lines = [
        f"- **Bed**: the largest lead over exact-k and sequential verification is {by_bed}.",
        f"- **Supervision**: right tokens less own scores, of G alone, in the tables' order: late "
        f"{late_more}; jointly {joint_more}.",
        f"- **Recipe**: late less joint: with right tokens {later_right}; with own scores "
        f"{later_own}.",
    ]
    for cell in countdown:
        auc = [max(values) for values in cell["auc"].values()]
        passed = [kind for kind, learned in cell["learned"].items() if learned]
        if not passed:
            lines.append(
                f"- **{_bed(cell)}** is gated out: exact scores reach at most AUC {max(auc):.2f} "
                f"(.9 is asked), and in {100 * cell['outside']:.0f} % of errors no right token is "
                "among the policy's first two (40 are asked). A null there says nothing of "
                "gradients."
            )
    if _bed_decides(facts, countdown):
        lines.append(
            "- So the bed decides first: a gradient leads where the right token follows from what "
            "a reward model of this size knows (a fact, a calculation); at first errors, where it "
            "follows from solving, no reward model passes the gate and no gradient leads. Then "
            "supervision: right tokens teach a converged model more than its own scores do (on "
            "Countdown's results with K = 8 not beyond what reward seeds vary). The "
            "recipe depends on the bed: late is ahead on facts, by no more than reward seeds vary, "
            "and behind on Countdown's results by more, where it had fewer steps of alignment and "
            "stayed below the gate. "
            "A prototype's .946 against .924 came from a bed of the first kind with right tokens, "
            "so joint alignment need not have made it."
        )
    return "\n".join(lines)


def _bed_decides(facts: list[Cell], countdown: list[Cell]) -> bool:
    """Return whether the tables support the last sentence of `recipe_answer`."""
    first = [c for c in countdown if c["where"] == "first errors"]
    others = [*facts, *(c for c in countdown if c not in first)]

    def changed(cells: list[Cell], name: str) -> list[float]:
        return [difference(c, name)["value"] for c in cells]

    late, recipe = "right tokens less own scores, late", "late less joint, right tokens"
    return (
        all(most(c)[1]["least"]["low"] <= 0 for c in first)
        and all(leads(most(c)[1]["least"], seeds=1) for c in others)
        and min(changed(others, late)) > 0
        and min(changed(facts, recipe)) > 0 > max(changed(countdown, recipe))
        and all(difference(c, recipe)["low"] <= 0 for c in facts)
        and all(difference(c, recipe)["high"] < 0 for c in countdown if c not in first)
    )


def most(cell: Cell) -> tuple[str, Cell, str]:
    """Return the aligned kind that leads most, its lead, and a star where its gates failed."""
    known = [kind for kind in RECIPES if cell["learned"][kind]] or list(RECIPES)
    found = {k: cell["leads"][k] if "leads" in cell else _lead(cell, k) for k in known}
    kind = max(found, key=lambda k: found[k]["least"]["value"])
    return kind, found[kind], "" if cell["learned"][kind] else "*"


def _listed(cells: list[Cell], name: str) -> str:
    pair = DIFFERENCES[name]
    return ", ".join(
        f"{100 * difference(c, name)['value']:+.1f}" + ("" if _both_learned(c, pair) else "*")
        for c in cells
    )
