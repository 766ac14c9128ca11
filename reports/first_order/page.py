"""The study's page: tables in Markdown, and the same numbers as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from basis import basis
from decoded import Runs
from grid import Chosen, Study, disjoint, numbers_of
from margins import Margin, corrected, margin, mended_and_broken, rewards, spread
from rivals import Rivalry, own_controls, rivalries

from nabla_eval.analysis.accuracy import accuracy
from nabla_eval.reporting.text import p_value

Cell = tuple[str, str]  # (cell, kind of reward model)
GOAL, SIGNIFICANT = 0.05, 0.01  # the margin that was asked for, and its p
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


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


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


def rival_table(lines: Sequence[Rivalry]) -> str:
    rows = [
        (
            line.own.variant.name,
            line.equal,
            line.coin.words,
            line.costs,
            shown(line.margin),
            p_value(line.margin.p),
            p_value(line.margin.holm),
            spread(line.margin.by_seed),
        )
        for line in lines
    ]
    head = (
        "first-order", "equal", "control at equal cost", "cost", "margin, points", "p", "Holm",
        "by reward seed",
    )  # fmt: skip
    return table(head, rows)


def failures(best: Mapping[str, Runs]) -> str:
    greedy = best["greedy"]
    rows = []
    for own in best.values():
        if own is not greedy:
            mended, broken = mended_and_broken(own, greedy)
            rows.append((own.variant.name, f"{100 * mended:.1f}", f"{100 * broken:.1f}"))
    return table(("setting", "greedy's wrong answers mended, %", "its right ones broken, %"), rows)


# --- all cells ----------------------------------------------------------------------------------


def verdict(chosen: Chosen, lines: Mapping[Cell, Sequence[Rivalry]]) -> str:
    """The answer in words, from the numbers of the goal's table."""
    at_calls = {
        key: [line for line in rivals if line.equal == "calls"] for key, rivals in lines.items()
    }
    met = [
        f"{cell}, {kind}"
        for (cell, kind), found in at_calls.items()
        if any(reached(m) for m in found if m.family == chosen[cell][kind].get("champion"))
    ]
    everything = [line.margin for found in at_calls.values() for line in found]
    if not everything:
        return "No control is as cheap as any first-order method: there is nothing to compare."
    most = max(m.estimate.high for m in everything)
    largest = max(m.estimate.value for m in everything)
    behind = sum(m.estimate.high < 0 for m in everything)
    said = (
        f"**A margin of {100 * GOAL:.0f} points over the strongest control at equal calls, with "
        f"p < {SIGNIFICANT}, was found in {len(met)} of {len(lines)} cells"
        f"{' (' + '; '.join(met) + ')' if met else ''}.** Of all {len(everything)} comparisons of "
        f"a first-order family at equal calls, {len(ahead(lines))} have an interval above zero and "
        f"{behind} one below; the largest margin is {points(largest)} points, and the highest "
        f"upper end of an interval {points(most)}."
    )
    if most < GOAL:
        said += " So the margin that was asked for is excluded everywhere, at 95 % a comparison."
    return f"{said} It holds for what was compared, which is narrower than it sounds:"


def ahead(lines: Mapping[Cell, Sequence[Rivalry]]) -> list[tuple[Cell, Rivalry]]:
    """The comparisons at equal calls whose interval lies above zero."""
    every = [(key, line) for key, rivals in lines.items() for line in rivals]
    return [(k, v) for k, v in every if v.equal == "calls" and v.margin.estimate.low > 0]


def reached(line: Rivalry) -> bool:
    """Whether a comparison has the margin that was asked for."""
    return line.margin.estimate.value >= GOAL and line.margin.p < SIGNIFICANT


def goal(chosen: Chosen, lines: Mapping[Cell, Sequence[Rivalry]]) -> str:
    """The margin that was asked for, for every cell; nothing in it is chosen on the test problems.

    The most that any first-order family can have, by the upper ends of all intervals, stands last.
    """
    rows = []
    for (cell, kind), rivals in lines.items():
        at_calls = [line for line in rivals if line.equal == "calls"]
        for line in at_calls:
            if line.family != chosen[cell][kind].get("champion"):
                continue
            m = line.margin
            rows.append(
                (
                    f"{cell}, {kind}",
                    line.own.variant.name,
                    line.coin.words,
                    shown(m),
                    p_value(m.p),
                    spread(m.by_seed),
                    "met" if reached(line) else "not met",
                    points(max(other.margin.estimate.high for other in at_calls)),
                )
            )
    head = (
        "cell, reward model", "first-order method", "control at equal calls", "margin, points",
        "p", "by reward seed", "≥ 5 points, p < 0.01", "highest upper end of any family",
    )  # fmt: skip
    return table(head, rows)


def alignment(best: Mapping[Cell, Mapping[str, Runs]], cells: Iterable[str]) -> str:
    """What aligning the gradient does to each method; Holm over the table."""
    names, margins = [], []
    for cell in cells:
        if (cell, "plain") not in best or (cell, "aligned") not in best:
            continue
        for family, own in best[cell, "aligned"].items():
            if family != "greedy":
                names.append((cell, family))
                margins.append(margin(own, best[cell, "plain"][family]))
    rows = [
        (*name, shown(m), p_value(m.p), p_value(m.holm), spread(m.by_seed))
        for name, m in zip(names, corrected(margins), strict=True)
    ]
    head = ("cell", "family", "aligned minus plain, points", "p", "Holm", "by reward seed")
    return table(head, rows)


GROWING = ("best-of-n", "nabla", "prefix-gradient")  # n, n, beta


def growth(study: Study, validation: Mapping[Cell, Mapping[str, Runs]]) -> str:
    """Reward beside correctness over the whole grid of the methods that search for reward."""
    rows = []
    for family in GROWING:
        for variant in study.families[family].variants if family in study.families else ():
            cells = []
            for found in validation.values():
                run = found[variant.name]
                cells.append(f"{rewards(run):+.2f}, {100 * run.accuracy:.1f}")
            rows.append((variant.name, *cells))
    return table(("setting", *(f"{cell}, {kind}" for cell, kind in validation)), rows)


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
    validation: Mapping[Cell, Mapping[str, Runs]],
    measured: Mapping[str, Any],
    facts: Mapping[str, Any],
    missing: Sequence[str],
) -> str:
    lines = {key: rivalries(chosen[key[0]][key[1]], found[key]) for key in found}
    test, validation_split = study.splits["test"], study.splits["validation"]
    text = [
        "# First-order methods beside their gradient-free controls",
        "Countdown with three and with four numbers, a weak and a strong policy for each, reward "
        "models trained plainly and with aligned gradients: does the gradient of a reward model "
        "buy more than exact scores or verification at the same cost?",
        verdict(chosen, lines),
        "\n".join(basis(study, best, ahead(lines), measured)),
        "## How it was measured",
        f"{test.problems:,} test problems × {len(study.reward_seeds)} reward models (seeds "
        f"{_listed(study.reward_seeds)}) × {len(test.decoding_seeds)} decoding seeds "
        f"({_listed(test.decoding_seeds)}; one where nothing is drawn). Differences are paired by "
        "problem, intervals are 95 % t intervals over problems, p is of the exact sign-flip test "
        "over problems, Holm's over the table. Those treat the reward models as given: the last "
        "column shows each one's own margin. A model call is a token written or scored; a gradient "
        "counts 2 (one prefix) or 4 (a whole response).",
        "\n".join(disjoint(study)),
        f"Tuned on the {validation_split.problems} validation problems (decoding seed "
        f"{_listed(validation_split.decoding_seeds)}, all reward seeds), for each cell and kind of "
        "reward model: each family's setting; the control at equal calls, FLOPs and seconds, which "
        "is the most accurate coin between two settings (all costs are of a problem on average); "
        "and which first-order family the goal is about. tuning.py states the rules, chosen.yaml "
        "the outcome. On the test problems a coin keeps its two sides, and its bias is set so that "
        "it costs what the first-order method cost there. Intervals at equal calls and FLOPs hold "
        "what the mean costs are uncertain by; at equal seconds they take them as known. Nothing "
        "was tuned on the test problems. The training recipe was settled before on validation "
        "problems (reports/LOG.md).",
        f"    {facts['command']}",
        f"Versions: {', '.join(f'{k} {v}' for k, v in facts['versions'].items())}. Seconds are "
        f"processor seconds of one thread, {min(study.width, test.problems)} problems in flight "
        f"({min(study.width, validation_split.problems)} on validation), while another process ran "
        "on the second core.",
    ]
    if missing:
        text += [
            "**Not decoded yet on the test problems, so not on this page:** "
            + "; ".join(missing)
            + ". The same command goes on with them."
        ]
    text += ["## The goal", goal(chosen, lines)]
    for cell, kind in found:
        entry = chosen[cell][kind]
        text += [
            f"## {numbers_of(cell)} numbers, {cell.split('-')[1]} policy, {TITLES[kind]}",
            accuracies(study, best[cell, kind]),
            f"![accuracy by cost](cost-{cell}-{kind}.png)",
            "Beside the strongest controls of any family at equal cost (ours / theirs, in calls, "
            "MFLOP or processor ms; less where the controls have no use for more):",
            rival_table(lines[cell, kind]),
            "Beside each of its own controls at equal cost:",
            rival_table(own_controls(entry, found[cell, kind])),
            "What each does to greedy answers:",
            failures(best[cell, kind]),
        ]
    if any((cell, "plain") in best and (cell, "aligned") in best for cell, _ in best):
        text += ["## The effect of alignment", alignment(best, study.cells)]
    text += [
        "## Reward against correctness as compute grows",
        "Mean reward of the answers (log-odds that they are right, by the reward model that was "
        "searched with) and accuracy in %, on the validation problems, for every setting of the "
        "grid. Where the first rises and the second does not, the search has found the reward "
        "model's mistakes.",
        growth(study, validation),
    ]
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
