"""The figures of a report, drawn from the rows of its tables (matplotlib, without a display)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from nabla_eval.analysis.candidates import gains
from nabla_eval.analysis.runs import Run
from nabla_eval.reporting.tables import Plot, Row
from nabla_eval.reporting.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_PANELS = 4  # of runs beside each other


def new_figure(
    width: float = 7.0, height: float = 4.0, columns: int = 1, shared: bool = True
) -> tuple[Figure, Any]:
    """Return an empty figure and its axes, for several columns an array; these may share scales."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    several = columns > 1
    shared = shared and several
    axes = figure.subplots(1, columns, sharex=shared, sharey=shared, squeeze=not several)
    return figure, axes.ravel() if several else axes


def plain(text: str) -> str:
    """Return text that matplotlib shows as it is: no mathematics, no control characters."""
    return printable(text).replace("$", r"\$")


def to_bytes(figure: Figure, form: str) -> bytes:
    """Return a figure as `png` or `svg`; the same figure gives the same bytes."""
    import matplotlib

    buffer = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "nabla_eval"}):
        figure.savefig(buffer, format=form, dpi=150, metadata=metadata)
    return buffer.getvalue()


# --- a line for each run ---


def cost_plot(rows: Sequence[Row]) -> Plot:
    """Return model calls per answer by their parts (the paper's Fig. 3)."""
    caption = "Whiskers: 95 % intervals over problems."
    return Plot("cost", "Model calls per answer", caption, partial(_draw_cost, rows))


def _draw_cost(rows: Sequence[Row]) -> Figure:
    figure, axes = new_figure(height=1.1 + 0.36 * len(rows))
    parts = {
        "generated tokens": [row["generated_tokens"] for row in rows],
        "4 × gradient passes": [4 * row["gradient_passes"] for row in rows],
        "scorings": [row["scorings"] for row in rows],
        "prefix scorings": [row["prefix_scorings"] for row in rows],
        "2 × prefix gradients": [2 * row["prefix_gradients"] for row in rows],
    }
    for guided in ("prefix scorings", "2 × prefix gradients"):
        if not any(parts[guided]):
            del parts[guided]
    places, left = range(len(rows)), [0.0] * len(rows)
    for colour, (label, values) in zip(COLOURS, parts.items(), strict=False):
        axes.barh(places, values, left=left, color=colour, label=label, height=0.7)
        left = [a + b for a, b in zip(left, values, strict=True)]
    errors = [_arms(row["model_calls"], row["model_calls_ci95"]) for row in rows]
    axes.errorbar(left, places, xerr=list(zip(*errors, strict=True)), fmt="none",
                  ecolor="#333333", capsize=2, lw=1)  # fmt: skip
    _name_lines(figure, axes, rows, "model calls per answer (95 % interval)")
    return figure


def rejection_plot(rows: Sequence[Row]) -> Plot:
    """Return rejection rates with intervals, and the controls beside each."""
    caption = "Left of its controls, a run proposes better candidates than they do."
    draw = partial(_draw_rejection, rows)
    return Plot("rejection", "Rejection rates and their controls", caption, draw)


def _draw_rejection(rows: Sequence[Row]) -> Figure:
    figure, axes = new_figure(height=1.2 + 0.4 * len(rows))
    rates = [100 * row["rate"] for row in rows]
    ranges = [_percent(row["ci95"] or (row["rate"], row["rate"])) for row in rows]
    arms = zip(*map(_arms, rates, ranges), strict=True)
    axes.errorbar(rates, range(len(rows)), xerr=list(arms), fmt="o", color=COLOURS[0], capsize=3,
                  label="measured")  # fmt: skip
    controls = {
        "zeroth-order twin": ("twin_rate", "s", COLOURS[1]),
        "best-of-N's drafts, challengers": ("baseline_measured_challengers", "^", COLOURS[2]),
        "1 - (H_N - 1)/(N - 1)": ("baseline_challengers", "|", COLOURS[6]),
        "1 - H_N/N": ("baseline_h", "x", COLOURS[7]),
    }
    for label, (name, marker, colour) in controls.items():
        found = [(100 * row[name], i) for i, row in enumerate(rows) if row[name] is not None]
        if found:
            axes.scatter(*zip(*found, strict=True), marker=marker, label=label, zorder=3, s=42,
                         color=colour)  # fmt: skip
    _name_lines(figure, axes, rows, "rejected candidates, % (95 % interval over problems)")
    return figure


def _name_lines(figure: Figure, axes: Axes, rows: Sequence[Row], label: str) -> None:
    """Name the line of each run, the first on top."""
    several = len({row["task"] for row in rows}) > 1
    names = [f"{row['run']} [{row['task']}]" if several else row["run"] for row in rows]
    axes.set_yticks(range(len(rows)), [_wrapped(name, 40) for name in names], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(label)
    figure.legend(frameon=False, fontsize=7, loc="outside lower center", ncols=3)
    tidy(axes, "x")


# --- a curve for each method ---


def scaling_plot(rows: Sequence[Row], task: str) -> Plot:
    """Return accuracy against model calls, a line for each curve over N (the paper's Fig. 4)."""
    draw = partial(_draw_scaling, [row for row in rows if row["task"] == task])
    title = f"Accuracy against model calls: {task}"
    return Plot(f"scaling_{task}", title, "Lines join runs that differ in N only.", draw)


def _draw_scaling(rows: Sequence[Row]) -> Figure:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    curves: dict[str, list[Row]] = {row["curve"]: [] for row in rows}
    for row in sorted(rows, key=lambda row: row["model_calls"]):
        curves[row["curve"]].append(row)
    lines = sum(1 + _wrapped(name, 52).count("\n") for name in curves)
    figure, axes = new_figure(height=4.2 + 0.1 * lines)
    for i, (name, own) in enumerate(curves.items()):
        errors = [_arms(100 * row["accuracy"], _percent(row["ci95"])) for row in own]
        again = i // len(COLOURS)  # the second time round with another marker
        axes.errorbar(
            [row["model_calls"] for row in own], [100 * row["accuracy"] for row in own],
            yerr=list(zip(*errors, strict=True)), label=_wrapped(name, 52), capsize=2, lw=1.2, ms=5,
            color=COLOURS[i % len(COLOURS)], marker=MARKERS[(i + again) % len(MARKERS)],
            alpha=0.9,
        )  # fmt: skip
    axes.set_xscale("log")
    named = [r for r in rows if r["n"] is not None and len(curves[r["curve"]]) > 1]
    for row in named:
        axes.annotate(
            str(row["n"]), (row["model_calls"], 100 * row["accuracy"]), fontsize=7,
            xytext=(4, -9), textcoords="offset points",
        )  # fmt: skip
    costs = [row["model_calls"] for row in rows]
    # Within a factor of ten there may be one multiple of 1, 2 and 5 to read the axis by, or none.
    near = max(costs) < 10 * max(min(costs), 1)
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10], min_n_ticks=3)
    axes.xaxis.set_major_locator(ticks if near else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"model calls per answer (log scale{'; small numbers are N' if named else ''})")
    axes.set_ylabel("accuracy, % (95 % interval)")
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    tidy(axes, "both")
    return figure


# --- a panel for each run ---


def gain_plot(runs: Sequence[Run]) -> Plot:
    """Return a histogram of the reward gain of candidates for each run."""
    caption = "Right of the line a candidate is accepted. The same bins in all panels."
    draw = partial(_draw_gains, _most_judging(runs))
    return Plot("gain", "Reward gain of candidates", caption, draw)


def _draw_gains(runs: Sequence[Run]) -> Figure:
    import numpy as np

    figure, panels = _panels(runs, 2.8)
    won = [gains(run.candidates)["gain"].to_numpy(float) for run in runs]
    pooled = np.concatenate(won)
    edges = list(np.histogram_bin_edges(pooled[np.isfinite(pooled)], bins=24))
    for axes, values in zip(panels, won, strict=True):
        axes.hist(values, bins=edges, weights=[100 / len(values)] * len(values), color=COLOURS[0])
        axes.axvline(0, color=COLOURS[6], lw=1)
    panels[0].set_ylabel("candidates, %")
    figure.supxlabel("reward of the candidate minus that of what it would replace", fontsize=9)
    return figure


def _most_judging(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with the most candidates, as many as there is room for, in their order."""
    chosen = sorted(runs, key=lambda run: len(run.candidates), reverse=True)[:_PANELS]
    return [run for run in runs if run in chosen]


def _panels(runs: Sequence[Run], height: float) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with a panel for each run, which it is named above."""
    import numpy as np

    figure, axes = new_figure(height=height, columns=len(runs))
    panels = list(np.atleast_1d(axes).ravel())
    for panel, run in zip(panels, runs, strict=True):
        panel.set_title(_wrapped(run.name, 24), fontsize=7)
        tidy(panel, "y")
    return figure, panels


def _wrapped(name: str, width: int) -> str:
    import textwrap

    return "\n".join(map(plain, textwrap.wrap(name, width)))


def _percent(interval: tuple[float, float]) -> tuple[float, float]:
    return 100 * interval[0], 100 * interval[1]


def _arms(value: float, interval: tuple[float, float]) -> tuple[float, float]:
    """Return the lengths of an interval's two arms; none where it is unknown."""
    low, high = interval
    return (max(0.0, value - low), max(0.0, high - value)) if low <= high else (0.0, 0.0)


def tidy(axes: Axes, grid: Any) -> None:
    """Leave two sides of the frame, and a faint grid along `grid` (x, y or both)."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)
    axes.set_axisbelow(True)
