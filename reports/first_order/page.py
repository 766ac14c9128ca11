"""The study's page: tables in Markdown, and the same numbers as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grid import Chosen, Study, disjoint, numbers_of
from margins import (
    Margin,
    against_mixture,
    corrected,
    margin,
    mended_and_broken,
    mixture,
    rewards,
    spread,
)
from results import Runs
from tuning import EQUAL

from nabla_eval.analysis.accuracy import accuracy
from nabla_eval.reporting.text import p_value

Cell = tuple[str, str]  # (cell, kind of reward model)
GOAL = 0.05  # the margin that was asked for, with p < 0.01
TITLES = {"plain": "plain reward models", "aligned": "gradient-aligned reward models"}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def points(value: float) -> str:
    return f"{100 * value:+.1f}"


def shown(entry: Margin) -> str:
    low, high = entry.estimate.interval
    return f"{points(entry.estimate.value)} [{points(low)}, {points(high)}]"


# --- one cell -----------------------------------------------------------------------------------


def tested(entry: Mapping[str, Any], found: Mapping[str, Runs]) -> dict[str, Runs]:
    """Family -> its tuned setting on the test problems."""
    return {name: found[family["best"]] for name, family in entry["families"].items()}


def accuracies(study: Study, best: Mapping[str, Runs]) -> str:
    rows = []
    for family, own in best.items():
        per_problem = {str(i): [value] for i, value in enumerate(own.by_problem())}
        score = accuracy(per_problem)
        seeds = own.by_seed().mean(axis=1)
        rows.append(
            (
                own.variant.name,
                study.families[family].role,
                f"{100 * score.value:.1f} ± {100 * score.se:.1f}",
                f"{100 * seeds.min():.1f} to {100 * seeds.max():.1f}",
                f"{own.calls:.1f}",
                f"{1000 * own.gflops:.1f}",
                f"{own.milliseconds:.1f}",
                f"{rewards(own):+.2f}",
            )
        )
    head = (
        "setting tuned on validation", "role", "accuracy % ± se", "by reward seed", "calls",
        "MFLOP", "processor ms", "reward",
    )  # fmt: skip
    return table(head, rows)


def rivalries(
    study: Study, entry: Mapping[str, Any], found: Mapping[str, Runs]
) -> list[tuple[str, str, Runs, Runs, Margin]]:
    """(family, equal in what, first-order setting, its rival, margin), Holm over these."""
    lines = []
    for family, chosen in entry["rivals"].items():
        own = found[entry["families"][family]["best"]]
        for equal, rival in chosen.items():
            lines.append((family, equal, own, found[rival], margin(own, found[rival])))
    adjusted = corrected([line[-1] for line in lines])
    return [(*line[:4], m) for line, m in zip(lines, adjusted, strict=True)]


def rival_table(lines: Sequence[tuple[str, str, Runs, Runs, Margin]]) -> str:
    rows = [
        (
            own.variant.name,
            equal,
            other.variant.name,
            " / ".join(f"{run.cost(EQUAL[equal]):.1f}" for run in (own, other)),
            shown(m),
            p_value(m.p),
            p_value(m.holm),
            spread(m.by_seed),
        )
        for _, equal, own, other, m in lines
    ]
    head = (
        "first-order", "equal", "best control that costs no more", "cost", "margin, points",
        "p", "Holm", "by reward seed",
    )  # fmt: skip
    return table(head, rows)


def control_table(study: Study, entry: Mapping[str, Any], found: Mapping[str, Runs]) -> str:
    """Each first-order family beside each of its own controls, at equal calls and seconds."""
    rows = []
    for name in study.named("first-order"):
        own = found[entry["families"][name]["best"]]
        for control in study.families[name].controls:
            names = dict.fromkeys(
                [entry["families"][control]["best"], *entry["families"][control]["ladder"]]
            )
            ladder = [found[variant] for variant in names]
            for equal, unit in EQUAL.items():
                other = mixture(ladder, unit, own.cost(unit))
                if other is None:
                    rows.append((own.variant.name, equal, f"{control}: none as cheap", "", ""))
                    continue
                m = against_mixture(own, other)
                rows.append((own.variant.name, equal, other.words, shown(m), p_value(m.p)))
    return table(("first-order", "equal", "control", "difference, points", "p"), rows)


def failures(best: Mapping[str, Runs]) -> str:
    greedy = best["greedy"]
    rows = []
    for own in best.values():
        if own is not greedy:
            mended, broken = mended_and_broken(own, greedy)
            rows.append((own.variant.name, f"{100 * mended:.1f}", f"{100 * broken:.1f}"))
    return table(("setting", "greedy's wrong answers mended, %", "its right ones broken, %"), rows)


# --- all cells ----------------------------------------------------------------------------------


def goal(lines: Mapping[Cell, Sequence[tuple[str, str, Runs, Runs, Margin]]]) -> str:
    """The margin that was asked for, for every cell."""
    rows = []
    for (cell, kind), rivals in lines.items():
        at_calls = [line for line in rivals if line[1] == "calls"]
        if not at_calls:
            continue
        _, _, own, other, m = max(at_calls, key=lambda line: line[2].accuracy)
        met = m.estimate.value >= GOAL and m.p < 0.01
        rows.append(
            (
                f"{cell}, {kind}",
                own.variant.name,
                other.variant.name,
                shown(m),
                p_value(m.p),
                spread(m.by_seed),
                "met" if met else "not met",
            )
        )
    head = (
        "cell, reward model", "best first-order method", "best control at equal calls",
        "margin, points", "p", "by reward seed", "≥ 5 points, p < 0.01",
    )  # fmt: skip
    return table(head, rows)


def alignment(best: Mapping[Cell, Mapping[str, Runs]], cells: Iterable[str]) -> str:
    """What aligning the gradient does to each method."""
    rows = []
    for cell in cells:
        if (cell, "plain") not in best or (cell, "aligned") not in best:
            continue
        for family, own in best[cell, "aligned"].items():
            if family != "greedy":
                m = margin(own, best[cell, "plain"][family])
                rows.append((cell, family, shown(m), p_value(m.p), spread(m.by_seed)))
    head = ("cell", "family", "aligned minus plain, points", "p", "by reward seed")
    return table(head, rows)


def choosers(measured: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Share of first errors at which a right token is ranked first, and the verifier's figures."""
    rows = []
    for cell, kinds in measured.items():
        figures = list(next(iter(kinds.values())))
        for figure in figures:
            columns = []
            for kind in TITLES:
                values = kinds.get(kind, {}).get(figure)
                if values is None:
                    columns.append("")
                    continue
                middle = sum(values) / len(values)
                columns.append(f"{middle:.3f} ({min(values):.3f} to {max(values):.3f})")
            rows.append((f"{cell}: {figure}", *columns))
    return table(("figure", *TITLES), rows)


def page(
    study: Study,
    chosen: Chosen,
    best: Mapping[Cell, Mapping[str, Runs]],
    found: Mapping[Cell, Mapping[str, Runs]],
    measured: Mapping[str, Any],
    facts: Mapping[str, Any],
    missing: Sequence[str],
) -> str:
    lines = {key: rivalries(study, chosen[key[0]][key[1]], found[key]) for key in found}
    text = [
        "# First-order methods beside their gradient-free controls",
        "Countdown with three and with four numbers, a weak and a strong policy for each, reward "
        "models trained plainly and with aligned gradients (issue: does the gradient of a reward "
        "model at a prefix buy more than exact scores at the same cost?). "
        f"{study.splits['test'].problems:,} test problems × {len(study.reward_seeds)} reward "
        f"models (seeds {', '.join(map(str, study.reward_seeds))}) × "
        f"{len(study.splits['test'].decoding_seeds)} decoding seeds "
        f"({', '.join(map(str, study.splits['test'].decoding_seeds))}; one where nothing is "
        "drawn). Differences are paired by problem, intervals are 95 % t intervals over problems, "
        "p is of the exact sign-flip test over problems. Those treat the reward models as given: "
        "the last column shows each one's own margin. A model call is a token written or scored; "
        "a gradient counts 2 (one prefix) or 4 (a whole response).",
        "\n".join(disjoint(study)),
        f"Tuned on the {study.splits['validation'].problems} validation problems (one decoding "
        "seed, all reward seeds), for each cell and kind of reward model: each family's setting, "
        "and which control is the rival at equal calls and at equal seconds (tuning.py states the "
        "rule, chosen.yaml the outcome). Nothing was tuned on the test problems. The training "
        "recipe was settled before on validation problems (reports/LOG.md).",
        f"    {facts['command']}",
        f"Versions: {', '.join(f'{k} {v}' for k, v in facts['versions'].items())}. Seconds are "
        "processor seconds of one thread, 400 problems in flight, while another process ran on "
        "the second core.",
    ]
    if missing:
        text += [
            "**Not decoded yet on the test problems, so not on this page:** "
            + "; ".join(missing)
            + ". The same command goes on with them."
        ]
    text += ["## The goal", goal(lines)]
    for cell, kind in found:
        entry = chosen[cell][kind]
        text += [
            f"## {numbers_of(cell)} numbers, {cell.split('-')[1]} policy, {TITLES[kind]}",
            accuracies(study, best[cell, kind]),
            f"![accuracy by cost](cost-{cell}-{kind}.png)",
            "Beside the best control of any family at equal cost, both as chosen on validation:",
            rival_table(lines[cell, kind]),
            "Beside each of its own controls at equal cost (a coin between two settings of the "
            "control where its cost lies between theirs):",
            control_table(study, entry, found[cell, kind]),
            "What each does to greedy answers:",
            failures(best[cell, kind]),
        ]
    if any((cell, "plain") in best and (cell, "aligned") in best for cell, _ in best):
        text += ["## The effect of alignment", alignment(best, study.cells)]
    if measured:
        text += [
            "## What the scores and gradients know",
            "At first errors of the policy's validation responses: how often a right token is "
            "ranked first (mean over reward seeds, range in brackets), by the policy, by the "
            "linearised score G at its likeliest token (hard) or mean embedding (soft), by exact "
            "scores, and with log π + 3 × each; then how well the reward model verifies.",
            choosers(measured),
        ]
    return "\n\n".join(text) + "\n"
