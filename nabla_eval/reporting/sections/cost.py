"""`report cost`: what an answer costs, against best-of-N, and what was saved on the way (D.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nabla_eval.analysis.cost import by_problem, correct_per_cost, cost_ratio, costs
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.shares import acceleration
from nabla_eval.analysis.twins import controls_of
from nabla_eval.reporting.report import Report
from nabla_eval.reporting.sections.columns import task_column
from nabla_eval.reporting.tables import Column, Table
from nabla_eval.reporting.text import number, percent, percent_range

Range = tuple[float, float]


@dataclass(frozen=True)
class CostRow:
    """Means per answer of everything that the ledger counts."""

    run: str
    task: str
    method: str
    n: int | None
    problems: int
    model_calls: float
    model_calls_ci95: Range
    generated_tokens: float
    gradient_passes: float
    scorings: float
    prefix_scorings: float
    prefix_gradients: float
    prefill_tokens: float
    parallel_tokens: float
    flops: float
    flops_ci95: Range
    latency: float  # seconds from the start of a problem to its answer, others running beside it
    seconds: float  # of the whole run; NaN where nobody noted them
    speculative: float  # share of model calls that lookahead threw away
    correct_per_100_calls: float
    correct_per_100_calls_ci95: Range

    @classmethod
    def of(cls, run: Run) -> CostRow:
        """The row of a run."""
        spent = costs(run.records)
        per_call = correct_per_cost(run.scores, run.records)
        return cls(
            run=run.name,
            task=run.task,
            method=run.method,
            n=run.n,
            problems=spent["model_calls"].clusters,
            model_calls=spent["model_calls"].value,
            model_calls_ci95=spent["model_calls"].interval,
            generated_tokens=spent["generated_tokens"].value,
            gradient_passes=spent["gradient_passes"].value,
            scorings=spent["scorings"].value,
            prefix_scorings=spent["prefix_scorings"].value,
            prefix_gradients=spent["prefix_gradients"].value,
            prefill_tokens=_mean(run, "prefill_tokens"),
            parallel_tokens=_mean(run, "parallel_tokens"),
            flops=spent["flops"].value,
            flops_ci95=spent["flops"].interval,
            latency=spent["seconds"].value,
            seconds=run.seconds,
            speculative=acceleration(run.records).speculative.value,
            correct_per_100_calls=100 * per_call.value,
            correct_per_100_calls_ci95=(100 * per_call.low, 100 * per_call.high),
        )


def _mean(run: Run, cost: str) -> float:
    values = [sum(group) / len(group) for group in by_problem(run.records, cost).values()]
    return sum(values) / len(values)


def _prefix_columns(rows: Sequence[CostRow]) -> list[Column[CostRow]]:
    """What only methods on prefix scores ask for; nothing where no run is of such a method."""
    if not any(row.prefix_scorings or row.prefix_gradients for row in rows):
        return []
    return [
        Column[CostRow]("Prefix scores", lambda row: number(row.prefix_scorings)),
        Column[CostRow]("Prefix grads", lambda row: number(row.prefix_gradients)),
    ]


@dataclass(frozen=True)
class SavingRow:
    """Model calls of a run as a share of a control's; below 1 it is cheaper (Fig. 3)."""

    run: str
    task: str
    role: str
    control: str
    ratio: float
    ratio_ci95: Range


@dataclass(frozen=True)
class AccelerationRow:
    """What a run did not have to do (D.2), each as a share of what it would have done."""

    run: str
    task: str
    certified: float
    certified_ci95: Range
    cached: float
    cached_ci95: Range
    reused: float
    reused_ci95: Range
    spared: float
    spared_ci95: Range
    skipped: float
    skipped_ci95: Range
    speculative: float
    speculative_ci95: Range

    @classmethod
    def of(cls, run: Run) -> AccelerationRow:
        """The row of a run."""
        found = acceleration(run.records)
        return cls(
            run.name,
            run.task,
            found.certified.value,
            found.certified.interval,
            found.cached.value,
            found.cached.interval,
            found.reused.value,
            found.reused.interval,
            found.spared.value,
            found.spared.interval,
            found.skipped.value,
            found.skipped.interval,
            found.speculative.value,
            found.speculative.interval,
        )


def cost_report(runs: Sequence[Run]) -> Report:
    """Costs, savings against the controls, acceleration."""
    savings = [
        _saving(run, role, control) for run in runs for role, control in controls_of(run, runs)
    ]
    tables: list[Table[Any]] = [
        cost_table(runs),
        saving_table(savings),
        acceleration_table(runs),
    ]
    return Report("cost", "Cost", tables, [_worded(row) for row in savings if row.role != "twin"])


def _saving(run: Run, role: str, control: Run) -> SavingRow:
    found = cost_ratio(run.records, control.records)
    return SavingRow(run.name, run.task, role, control.name, found.value, found.interval)


def _worded(row: SavingRow) -> str:
    interval = f"95 % interval {percent_range(row.ratio_ci95)}"
    share = f"{percent(row.ratio)} of the model calls of {row.control}"
    return f"{row.run} takes {share} ({interval})."


def cost_table(runs: Sequence[Run]) -> Table[CostRow]:
    """Everything per answer."""
    rows = [CostRow.of(run) for run in runs]
    columns = [
        *task_column(rows),
        Column[CostRow]("Run", lambda row: row.run, "left"),
        Column[CostRow]("Calls", lambda row: number(row.model_calls)),
        Column[CostRow]("95 % CI", lambda row: _range(row.model_calls_ci95)),
        Column[CostRow]("Tokens", lambda row: number(row.generated_tokens)),
        Column[CostRow]("Grads", lambda row: number(row.gradient_passes)),
        Column[CostRow]("Scorings", lambda row: number(row.scorings)),
        *_prefix_columns(rows),
        Column[CostRow]("GFLOP", lambda row: number(row.flops / 1e9, 2)),
        Column[CostRow]("In series", lambda row: number(row.parallel_tokens)),
        Column[CostRow]("Latency s", lambda row: number(row.latency, 2)),
        Column[CostRow]("Right/100", lambda row: number(row.correct_per_100_calls, 2)),
    ]
    notes = [
        "Means per answer. Calls as the paper counts them: a generated token is one, a gradient "
        "pass four, a scoring one (so is the exact score of one token after a prefix, and its "
        "gradient is two). GFLOP: 2P a forward token and 4P with the way back. In series: "
        "tokens that had to be drawn one after another. Latency depends on how many problems ran "
        "beside. Right/100: right answers per 100 calls."
    ]
    return Table("runs", "Cost per answer", columns, rows, notes)


def _range(interval: Range) -> str:
    return f"{number(interval[0])}–{number(interval[1])}"


def saving_table(rows: Sequence[SavingRow]) -> Table[SavingRow]:
    """Model calls against the controls."""
    columns = [
        *task_column(rows),
        Column[SavingRow]("Run", lambda row: row.run, "left"),
        Column[SavingRow]("against", lambda row: row.control, "left"),
        Column[SavingRow]("Calls", lambda row: percent(row.ratio)),
        Column[SavingRow]("95 % CI", lambda row: percent_range(row.ratio_ci95)),
    ]
    notes = ["Model calls of the run as a share of the control's; problems are resampled."]
    return Table("savings", "Model calls against the controls", columns, rows, notes)


def acceleration_table(runs: Sequence[Run]) -> Table[AccelerationRow]:
    """The accelerations, for the runs that refine anything."""
    refining = [run for run in runs if any(r["outcome"]["positions"] for r in run.records)]
    rows = [AccelerationRow.of(run) for run in refining]
    columns = [
        *task_column(rows),
        Column[AccelerationRow]("Run", lambda row: row.run, "left"),
        Column[AccelerationRow]("Draws certified", lambda row: percent(row.certified)),
        Column[AccelerationRow]("Passes cached", lambda row: percent(row.cached)),
        Column[AccelerationRow]("Tokens reused", lambda row: percent(row.reused)),
        Column[AccelerationRow]("Tokens spared", lambda row: percent(row.spared)),
        Column[AccelerationRow]("Positions skipped", lambda row: percent(row.skipped)),
        Column[AccelerationRow]("Speculative", lambda row: percent(row.speculative)),
    ]
    notes = [
        "Draws certified: the same whatever the gradient, so taken without one. "
        "Passes cached: of one gradient pass per step of each refinement. Tokens reused: of what "
        "rolling out both sides of every judged candidate would draw (a lower bound, near one half "
        "at most). Tokens spared: of what a rollout from the prompt at every visited position "
        "would draw, as the paper's D.2 may count (a lower bound). Positions skipped: passed "
        "without a refinement. Speculative: model calls that lookahead threw away."
    ]
    return Table("acceleration", "What was saved on the way", columns, rows, notes)
