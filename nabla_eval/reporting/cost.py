"""`report cost` and `scaling`: what answers cost, what was saved, accuracy at equal calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields

from nabla_eval.analysis.controls import alike, controls_of, is_baseline
from nabla_eval.analysis.cost import (
    Acceleration,
    acceleration,
    cost_ratio,
    mean_costs,
)
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.scaling import Point, at_equal_cost, pareto, points
from nabla_eval.reporting.rows import (
    CALLS,
    HOLM,
    INTERVAL,
    P_VALUE,
    POINTS,
    POINTS_INTERVAL,
    RIGHT_PER_100,
    cost_row,
    decided,
    holm_corrected,
    of_run,
    run_table,
    task_column,
    with_interval,
    worded,
)
from nabla_eval.reporting.tables import Column, Report, Row, Table, text
from nabla_eval.reporting.text import count, number, percent, percent_range, points_range
from nabla_eval.reporting.text import points as in_points


def cost_report(runs: Sequence[Run]) -> Report:
    """Report costs, savings against the controls, acceleration."""
    pairs = [(run, role, control) for run in runs for role, control in controls_of(run, runs)]
    savings = [saving_row(run, role, control) for run, role, control in pairs]
    sentences = worded([row for row in savings if row["role"] != "twin"], _saved)
    tables = [cost_table(runs), saving_table(savings), acceleration_table(runs)]
    return Report("cost", "Cost", tables, sentences)


def _saved(row: Row) -> str:
    share, control = percent(row["ratio"]), row["control"]
    interval = percent_range(row["ratio_ci95"])
    return f"{row['run']} takes {share} of {control}'s model calls (95 % interval {interval})."


def saving_row(run: Run, role: str, control: Run) -> Row:
    """Return model calls of a run as a share of a control's; below 1 it is cheaper (Fig. 3)."""
    names = {**of_run(run), "role": role, "control": control.name}
    return {**names, **with_interval("ratio", cost_ratio(run, control))}


def saving_table(rows: Sequence[Row]) -> Table:
    """Tabulate model calls against the controls."""
    columns = [
        text("against", "control"),
        Column("Calls", "ratio", percent),
        Column("95 % CI", "ratio_ci95", percent_range),
    ]
    note = "Calls: model calls of the run as a share of the control's; below 100 % it is cheaper."
    return run_table("savings", "Model calls against the controls", rows, columns, note)


def cost_table(runs: Sequence[Run]) -> Table:
    """Tabulate everything per answer; `speculative` calls are those that lookahead threw away."""
    rows = [
        {
            **cost_row(run),
            "prefill_tokens": float(mean_costs(run, "prefill_tokens").mean()),
            "parallel_tokens": float(mean_costs(run, "parallel_tokens").mean()),
            "speculative": acceleration(run).speculative.value,
        }
        for run in runs
    ]
    prefixes = [
        Column("Prefix scores", "prefix_scorings"),
        Column("Prefix grads", "prefix_gradients"),
    ]
    guided = any(row["prefix_scorings"] or row["prefix_gradients"] for row in rows)
    columns = [
        CALLS,
        Column("95 % CI", "model_calls_ci95", lambda ci: f"{number(ci[0])}–{number(ci[1])}"),
        Column("Tokens", "generated_tokens"),
        Column("Grads", "gradient_passes"),
        Column("Scorings", "scorings"),
        *(prefixes if guided else []),
        Column("GFLOP", lambda row: row["flops"] / 1e9, number, 2),
        Column("In series", "parallel_tokens"),
        Column("Latency s", "latency", number, 2),
        RIGHT_PER_100,
    ]
    return run_table(
        "runs", "Cost per answer", rows, columns,
        "Means per answer. Calls as the paper counts them: a generated token is one, a gradient "
        "pass four, a scoring one (so is the exact score of one token after a prefix, and its "
        "gradient is two). GFLOP: 2P a forward token and 4P with the way back. In series: "
        "tokens that had to be drawn one after another. Latency depends on how many problems ran "
        "beside. Right/100: right answers per 100 calls.",
    )  # fmt: skip


def acceleration_table(runs: Sequence[Run]) -> Table:
    """Tabulate the accelerations, for the runs that refine anything."""
    rows: list[Row] = []
    for run in runs:
        if run.answers["positions"].any():
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
    return run_table(
        "acceleration", "What was saved on the way", rows, columns,
        "Draws certified: no gradient could change them, so they are taken without one and are the "
        "twin's. "
        "Passes cached: of one gradient pass per step of each refinement. Tokens reused: of what "
        "rolling out both sides of every judged candidate would draw (a lower bound, near one half "
        "at most). Tokens spared: of what a rollout from the prompt at every visited position "
        "would draw, as the paper's D.2 may count (a lower bound). Positions skipped: passed "
        "without a refinement. Speculative: model calls for candidates that were rolled out ahead "
        "(look-ahead, for speed) and then not needed.",
    )  # fmt: skip


# --- scaling: accuracy against cost over N, the front, rivals at equal calls (Fig. 4) ---


def scaling_report(runs: Sequence[Run]) -> Report:
    """Report runs as points of curves over N, and differences at equal calls."""
    found = points(runs)
    equal = _equal_cost_rows(found)
    tables = [_point_table(found), _equal_cost_table(equal)]
    return Report("scaling", "Accuracy against cost", tables, worded(equal, _at_equal_calls))


def _point_table(found: Sequence[Point]) -> Table:
    rows = [
        {
            **of_run(point.run),
            "curve": point.curve,  # runs that differ in n only
            "n": point.run.n,
            **with_interval("model_calls", point.cost),
            **with_interval("accuracy", point.accuracy, "ci95"),
            "pareto": front,  # no other run of the task is at least as right for no more calls
        }
        for point, front in zip(found, pareto(found), strict=True)
    ]
    columns = [
        *task_column(rows),
        text("Curve", "curve"),
        Column("N", "n", count),
        CALLS,
        Column("Accuracy", "accuracy", percent),
        INTERVAL,
        text("Front", lambda row: "yes" if row["pareto"] else ""),
    ]
    note = "Front: no other run of the task is at least as right for no more calls, as estimated."
    return Table("points", "Accuracy and model calls over N", columns, rows, (note,))


def _equal_cost_rows(found: Sequence[Point]) -> list[Row]:
    """Return every run of a searching method against the curves of its twins and the baselines.

    The difference is the run minus the best that the rival curve does for the run's own mean number
    of model calls; `weight` is the share of problems that the rival's dearer run answers.
    """
    curves: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for point in found:
        curves[point.run.task, point.curve].append(point.run)
    rows = []
    for point in found:
        run = point.run
        for (_, curve), rivals in curves.items():
            other = rivals[0].method != run.method or (rivals[0].is_twin and not run.is_twin)
            if is_baseline(run) or not other or not alike(rivals[0], run):
                continue
            equal = at_equal_cost(run, rivals)
            if equal is None:
                continue
            rows.append(
                {
                    **of_run(run),
                    "model_calls": point.cost.value,
                    "rival": curve,
                    "cheaper": equal.cheaper.name,
                    "dearer": equal.dearer.name,
                    "weight": equal.weight,
                    **with_interval("difference", equal.difference.estimate, "ci95"),
                    "p": equal.difference.p,
                    "p_holm": None,
                }
            )
    return holm_corrected(rows)


def _at_equal_calls(row: Row) -> str:
    verb, found = "cannot be told apart from", row["difference"]
    if decided(row):
        side = "above" if found > 0 else "below"
        verb = f"is {in_points(abs(found)).lstrip('+')} points {side}"
    detail = f"{in_points(found)} points, 95 % interval {points_range(row['ci95'])}"
    calls = number(row["model_calls"])
    return f"At {calls} calls a problem, {row['run']} {verb} {row['rival']} ({detail})."


def _equal_cost_table(rows: Sequence[Row]) -> Table:
    columns = [CALLS, text("minus", "rival"), POINTS, POINTS_INTERVAL, P_VALUE]
    return run_table(
        "equal_cost", "At equal model calls", rows, columns,
        "The rival is the best of all mixtures of its runs that spend at most as many calls on "
        "average; nothing is extrapolated. Intervals and p hold what both mean costs are uncertain "
        "by.", HOLM,
    )  # fmt: skip
