"""`report cost`: what an answer costs, against best-of-N, and what was saved on the way (D.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from nabla_eval.analysis.controls import controls_of
from nabla_eval.analysis.cost import (
    Acceleration,
    acceleration,
    correct_per_cost,
    cost_ratio,
    costs,
    mean_costs,
)
from nabla_eval.analysis.runs import Run
from nabla_eval.reporting.rows import of_run, run_table, with_interval
from nabla_eval.reporting.tables import Column, Report, Row, Table, text
from nabla_eval.reporting.text import number, percent, percent_range


def cost_report(runs: Sequence[Run]) -> Report:
    """Report costs, savings against the controls, acceleration."""
    pairs = [(run, role, control) for run in runs for role, control in controls_of(run, runs)]
    savings = [saving_row(run, role, control) for run, role, control in pairs]
    tables = [cost_table(runs), saving_table(savings), acceleration_table(runs)]
    return Report(
        "cost", "Cost", tables, [_worded(row) for row in savings if row["role"] != "twin"]
    )


def saving_row(run: Run, role: str, control: Run) -> Row:
    """Return model calls of a run as a share of a control's; below 1 it is cheaper (Fig. 3)."""
    names = {**of_run(run), "role": role, "control": control.name}
    return {**names, **with_interval("ratio", cost_ratio(run, control))}


def _worded(row: Row) -> str:
    share = f"{percent(row['ratio'])} of the model calls of {row['control']}"
    return f"{row['run']} takes {share} (95 % interval {percent_range(row['ratio_ci95'])})."


def _cost_row(run: Run) -> Row:
    """Return the means per answer of everything that the ledger counts.

    `latency` is in seconds from the start of a problem to its answer, `seconds` of the whole run
    (NaN where nobody noted them), `speculative` the share of model calls that lookahead threw away.
    """
    spent, per_call = costs(run), correct_per_cost(run)
    row = {
        **of_run(run),
        "method": run.method,
        "n": run.n,
        "problems": spent["model_calls"].clusters,
        **with_interval("model_calls", spent["model_calls"]),
    }
    for name in ("generated_tokens", "gradient_passes", "scorings", "prefix_scorings"):
        row[name] = spent[name].value
    row["prefix_gradients"] = spent["prefix_gradients"].value
    for name in ("prefill_tokens", "parallel_tokens"):
        means = mean_costs(run, name).values()
        row[name] = sum(means) / len(means)
    return {
        **row,
        **with_interval("flops", spent["flops"]),
        "latency": spent["seconds"].value,
        "seconds": run.seconds,
        "speculative": acceleration(run).speculative.value,
        "correct_per_100_calls": 100 * per_call.value,
        "correct_per_100_calls_ci95": (100 * per_call.low, 100 * per_call.high),
    }


def cost_table(runs: Sequence[Run]) -> Table:
    """Tabulate everything per answer."""
    rows = [_cost_row(run) for run in runs]
    prefixes: list[Column] = []
    if any(row["prefix_scorings"] or row["prefix_gradients"] for row in rows):
        prefixes = [
            Column("Prefix scores", "prefix_scorings"),
            Column("Prefix grads", "prefix_gradients"),
        ]
    columns = [
        Column("Calls", "model_calls"),
        Column("95 % CI", "model_calls_ci95", lambda ci: f"{number(ci[0])}–{number(ci[1])}"),
        Column("Tokens", "generated_tokens"),
        Column("Grads", "gradient_passes"),
        Column("Scorings", "scorings"),
        *prefixes,
        Column("GFLOP", lambda row: row["flops"] / 1e9, number, 2),
        Column("In series", "parallel_tokens"),
        Column("Latency s", "latency", number, 2),
        Column("Right/100", "correct_per_100_calls", number, 2),
    ]
    notes = [
        "Means per answer. Calls as the paper counts them: a generated token is one, a gradient "
        "pass four, a scoring one (so is the exact score of one token after a prefix, and its "
        "gradient is two). GFLOP: 2P a forward token and 4P with the way back. In series: "
        "tokens that had to be drawn one after another. Latency depends on how many problems ran "
        "beside. Right/100: right answers per 100 calls."
    ]
    return run_table("runs", "Cost per answer", rows, columns, notes)


def saving_table(rows: Sequence[Row]) -> Table:
    """Tabulate model calls against the controls."""
    columns = [
        text("against", "control"),
        Column("Calls", "ratio", percent),
        Column("95 % CI", "ratio_ci95", percent_range),
    ]
    notes = ["Model calls of the run as a share of the control's; problems are resampled."]
    return run_table("savings", "Model calls against the controls", rows, columns, notes)


def acceleration_table(runs: Sequence[Run]) -> Table:
    """Tabulate the accelerations, for the runs that refine anything."""
    rows: list[Row] = []
    for run in runs:
        if not run.answers["positions"].any():
            continue
        found, row = acceleration(run), of_run(run)
        for field in fields(Acceleration):
            row |= with_interval(field.name, getattr(found, field.name))
        rows.append(row)
    columns = [
        Column("Draws certified", "certified", percent),
        Column("Passes cached", "cached", percent),
        Column("Tokens reused", "reused", percent),
        Column("Tokens spared", "spared", percent),
        Column("Positions skipped", "skipped", percent),
        Column("Speculative", "speculative", percent),
    ]
    notes = [
        "Draws certified: the same whatever the gradient, so taken without one. "
        "Passes cached: of one gradient pass per step of each refinement. Tokens reused: of what "
        "rolling out both sides of every judged candidate would draw (a lower bound, near one half "
        "at most). Tokens spared: of what a rollout from the prompt at every visited position "
        "would draw, as the paper's D.2 may count (a lower bound). Positions skipped: passed "
        "without a refinement. Speculative: model calls that lookahead threw away."
    ]
    return run_table("acceleration", "What was saved on the way", rows, columns, notes)
