"""Writes README.md here: what the studies of this folder say about ∇-Reasoner.

    python reports/embedded/answers.py results/embedded

Reads the study folders that run.sh makes; every figure comes from `nabla_eval.analysis`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nabla_eval.analysis.accuracy import Difference, accuracy, difference
from nabla_eval.analysis.candidates import rejection
from nabla_eval.analysis.controls import twin_of
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.scaling import at_equal_cost
from nabla_eval.analysis.significance import holm
from nabla_eval.analysis.study import load
from nabla_eval.reporting.accuracy import ablation_report
from nabla_eval.reporting.page import facts_of
from nabla_eval.reporting.tables import Column, Table, text, to_markdown
from nabla_eval.reporting.text import MISSING, number, p_value, percent, points, points_range

STOP = "stop_reward"
TRAINING = Path(__file__).parents[1] / "training" / "training.json"


@dataclass(frozen=True)
class Row:
    """∇-Reasoner with some options against one control."""

    setting: str
    n: int
    run: Run
    control: str
    found: Difference
    p: float

    @property
    def apart(self) -> bool:
        """Whether the two can be told apart, corrected for all comparisons of the table."""
        return self.found.estimate.excludes() and self.p <= 0.05


def calls(run: Run) -> float:
    """Mean model calls of an answer."""
    spent = list(run.answers["model_calls"])
    return sum(spent) / len(spent)


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Every gradient run of the scaling study against its twin and the best-of-N family."""
    found = []
    for run in runs:
        if run.method != "nabla" or run.is_twin:
            continue
        stops = run.config[STOP] is not None
        preset = run.preset if run.preset not in (None, "default") else None
        setting = f"preset={preset}" if preset else ("default, stop" if stops else "default")
        for control, gap in controls(run, runs, stops):
            found.append(Row(setting, int(run.n or 0), run, control, gap, gap.p))
    found.sort(key=lambda row: (row.setting, row.control, row.n))
    adjusted = holm([row.p for row in found])
    return [replace(row, p=p) for row, p in zip(found, adjusted, strict=True)]


def controls(run: Run, runs: Sequence[Run], stops: bool) -> Iterable[tuple[str, Difference]]:
    """The twin; best-of-N at the same N, stopping alike; both families at the same mean calls."""
    twin = twin_of(run, runs)
    if twin is not None and run.n != 1:
        yield "1. the twin, same N", difference(run.scores, twin.scores)
    best = [
        other
        for other in runs
        if other.method == "best_of_n" and (other.config[STOP] is not None) == stops
    ]
    for other in best:
        if other.n == run.n and run.n != 1:
            yield "2. best-of-N, same N and stop", difference(run.scores, other.scores)
    stopping = [o for o in runs if o.method == "best_of_n" and o.config[STOP] is not None]
    equal = at_equal_cost(run, stopping)
    if equal is not None:
        yield "3. best-of-N that stops, same calls", equal.difference
    twins = [
        other
        for other in runs
        if other.is_twin
        and (other.config[STOP] is not None) == stops
        and other.preset == run.preset
    ]
    equal = at_equal_cost(run, twins)
    if equal is not None:
        yield "4. the twin, same calls", equal.difference


def table_of(rows: Sequence[Row]) -> Table:
    columns = [
        text("Setting", lambda row: row.setting),
        text("Against", lambda row: row.control),
        Column("N", lambda row: str(row.n), str),
        Column("Accuracy", lambda row: percent(accuracy(row.run.scores).value), str),
        Column("Calls", lambda row: number(calls(row.run)), str),
        Column("Points", lambda row: points(row.found.estimate.value), str),
        Column("95 % CI", lambda row: points_range(row.found.estimate.interval), str),
        Column("p, Holm", lambda row: p_value(row.p), str),
    ]
    notes = [
        "Points of accuracy of ∇-Reasoner minus the control, paired by problem, seeds pooled "
        "(the cluster is the problem). Same calls: the best mixture of two N of the control that "
        "spends at most as many model calls on average. p: exact sign-flip test, corrected for all "
        "rows of this table."
    ]
    return Table("answers", "∇-Reasoner against its controls", columns, rows, notes)


def worded(rows: Sequence[Row], question: str, control: str) -> str:
    """The answer to one question, for all settings and N."""
    own = [row for row in rows if row.control == control]
    above = [row for row in own if row.apart and row.found.estimate.value > 0]
    below = [row for row in own if row.apart and row.found.estimate.value < 0]

    def listed(some: Sequence[Row]) -> str:
        return "; ".join(
            f"{row.setting} at N = {row.n} ({points(row.found.estimate.value)}, "
            f"{points_range(row.found.estimate.interval)})"
            for row in some
        )

    answer = f"**{question}** "
    if not above and not below:
        answer += "Nowhere can the two be told apart"
    else:
        parts = [f"better: {listed(above)}"] if above else []
        parts += [f"worse: {listed(below)}"] if below else []
        told = "; ".join(parts)
        answer += told[0].upper() + told[1:]
        answer += f"; in the other {len(own) - len(above) - len(below)} of {len(own)} comparisons "
        answer += "they cannot be told apart"
    main = [row for row in own if row.setting.startswith("default") and row.n == 8]
    shown = "; ".join(
        f"{row.setting}: {points(row.found.estimate.value)} points "
        f"({points_range(row.found.estimate.interval)})"
        for row in main
    )
    return f"{answer}. At N = 8, {shown}." if shown else f"{answer}."


@dataclass(frozen=True)
class Audit:
    """One line of the audit: a setting, beside its twin."""

    run: Run
    label: str
    twin: Run | None


def audit_table(runs: Sequence[Run], labels: dict[Path, str]) -> Table:
    """Rejection and accuracy of each ablated setting beside its own twin."""
    lines = [
        Audit(run, labels[run.folders[0]], twin_of(run, runs)) for run in runs if not run.is_twin
    ]

    def rate(run: Run | None, first: bool = False) -> str:
        if run is None:
            return MISSING
        found = rejection(run.candidates)
        return percent((found.first if first else found.overall).estimate.value)

    def gap(line: Audit) -> str:
        if line.twin is None:
            return MISSING
        found = difference(line.run.scores, line.twin.scores).estimate
        return f"{points(found.value)} ({points_range(found.interval)})"

    columns = [
        text("Setting", lambda line: line.label),
        Column("Accuracy", lambda line: percent(accuracy(line.run.scores).value), str),
        Column("Over twin", gap, str),
        Column("Calls", lambda line: number(calls(line.run)), str),
        Column("Rejected", lambda line: rate(line.run), str),
        Column("Twin's", lambda line: rate(line.twin), str),
        Column("First", lambda line: rate(line.run, True), str),
        Column("Twin's", lambda line: rate(line.twin, True), str),
    ]
    notes = ["First: the first candidate of each problem. The twin of a setting takes no step."]
    return Table("audit", "Each setting beside its own twin", columns, lines, notes)


@dataclass(frozen=True)
class Searched:
    """A method that searches or chooses otherwise, beside best-of-N."""

    label: str
    run: Run
    greedy: Difference
    best: Difference  # best-of-8, all drafts
    equal: Difference | None  # best-of-N, all drafts, at the same calls


def search_rows(
    runs: Sequence[Run], scaling: Sequence[Run], labels: dict[Path, str]
) -> list[Searched]:
    """Every run of the search study beside its controls of the scaling study."""
    best = [run for run in scaling if run.method == "best_of_n" and run.config[STOP] is None]
    (greedy,) = (run for run in scaling if run.method == "greedy")
    (eight,) = (run for run in best if run.n == 8)
    rows = []
    for run in runs:
        equal = at_equal_cost(run, best)
        rows.append(
            Searched(
                labels[run.folders[0]],
                run,
                difference(run.scores, greedy.scores),
                difference(run.scores, eight.scores),
                None if equal is None else equal.difference,
            )
        )
    return rows


def search_table(rows: Sequence[Searched]) -> Table:
    def gap(found: Difference | None) -> str:
        if found is None:
            return MISSING
        return f"{points(found.estimate.value)} ({points_range(found.estimate.interval)})"

    columns = [
        text("Method", lambda row: row.label),
        Column("Accuracy", lambda row: percent(accuracy(row.run.scores).value), str),
        Column("Calls", lambda row: number(calls(row.run)), str),
        Column("Over greedy", lambda row: gap(row.greedy), str),
        Column("Over best-of-8", lambda row: gap(row.best), str),
        Column("Over best-of-N, same calls", lambda row: gap(row.equal), str),
    ]
    notes = [
        "Points with 95 % intervals, paired by problem, not corrected for the number of rows. "
        "Best-of-N scores all its drafts here. TPO needs a policy that chats."
    ]
    return Table("search", "Search and other ways to choose", columns, rows, notes)


def training_section(file: Path) -> str:
    """The trained rows of reports/training, or where they would come from."""
    if not file.exists():
        return (
            "The trained rows (SFT, GRPO) are not in this report: `bash reports/training/run.sh` "
            "makes them, and this page takes them in when it is written again."
        )
    import json

    found = json.loads(file.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = found["rows"]

    def gap(row: dict[str, Any]) -> str:
        for start, change in row.get("against", {}).items():
            interval = points_range((change["low"], change["high"]))
            return f"{points(change['value'])} ({interval}) over {start}"
        return MISSING

    columns = [
        text("Policy", lambda row: row["name"]),
        Column("Greedy accuracy", lambda row: percent(row["accuracy"]["value"]), str),
        Column("Over where it began", gap, str),
    ]
    notes = [
        f"Points with 95 % intervals, paired over {found['problems']:,} test problems, seed "
        f"{found['seed']}: other problems than those of the rows above. From reports/training."
    ]
    return to_markdown(Table("training", "Trained rows", columns, rows, notes))


def variant_names(study: Path) -> dict[Path, str]:
    """Run folder -> the name its variant has in the sweep's file."""
    import json

    return {
        file.parent.resolve(): json.loads(file.read_text(encoding="utf-8"))["name"]
        for file in study.glob("*/run.json")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", type=Path, help="folder of scaling/, ablations/, search/")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--training", type=Path, default=TRAINING)
    chosen = parser.parse_args()
    scaling = load([chosen.studies / "scaling"])
    ablations = load([chosen.studies / "ablations"])
    search = load([chosen.studies / "search"])
    names = variant_names(chosen.studies / "ablations")
    searched = search_rows(search, scaling, variant_names(chosen.studies / "search"))
    base = next(run.name for run in ablations if names[run.folders[0]].split(" n=")[0] == "nabla")
    rows = rows_of(scaling)
    facts: dict[str, Any] = dict(facts_of([*scaling, *ablations, *search]))
    page = [
        "# ∇-Reasoner on the embedded pair",
        "Real runs of every method on held-out Countdown problems, and each switch changed alone. "
        f"All of it is made again by `bash reports/embedded/run.sh` (`scaling.yaml`, "
        f"`ablations.yaml` and `search.yaml`; seeds {facts['seeds']}); the numbers of all tables "
        "are in `report.json.gz` of `scaling/`, `ablations/` and `search/`; run.sh writes the "
        "pages and figures beside them. "
        "A result about one small pair and one task, not about ∇-Reasoner at large. Costs are "
        "compared in model calls; the seconds of these tables were taken on a machine that did "
        "other work too, and compare nothing (`make bench` does).",
        "## Answers",
        worded(rows, "Does ∇-Reasoner beat its zeroth-order twin?", "1. the twin, same N"),
        worded(rows, "Does it beat best-of-N at equal N?", "2. best-of-N, same N and stop"),
        worded(rows, "At equal model calls?", "3. best-of-N that stops, same calls"),
        worded(rows, "Its twin at equal model calls?", "4. the twin, same calls"),
        "![Accuracy against model calls](scaling/figures/scaling_nabla_countdown.png)",
        to_markdown(table_of(rows)),
        "## Search methods, and other ways to choose",
        to_markdown(search_table(searched)),
        training_section(chosen.training),
        "## Audit of the switches",
        "From the default with early stop at N = 8. The causal controls are `lam=0` (reward "
        "ignored) and `lam=-1` (reward negated), also at the learning rate at which DTO moves "
        "tokens; `acceptance=released` emulates the released code's mis-scored comparison.",
        to_markdown(audit_table(ablations, names)),
        to_markdown(ablation_report(ablations, base).tables[0]),
        "## How it was made",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
    ]
    (chosen.output / "README.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print(f"{chosen.output / 'README.md'}: {len(scaling) + len(ablations) + len(search)} runs")


if __name__ == "__main__":
    main()
