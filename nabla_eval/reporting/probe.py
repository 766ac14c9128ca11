"""A probe's sections as tables and a figure, from the JSON that `nabla-eval probe` prints."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from nabla_eval.reporting.figures import COLOURS, new_figure, tidy
from nabla_eval.reporting.tables import Column, Plot, Report, Row, Table, text
from nabla_eval.reporting.text import MISSING, count, number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Probe = Mapping[str, Any]
RANKINGS = "The gradient's rankings; ∇-Reasoner follows the hard ones"


def probe_report(probe: Probe) -> Report:
    """Return the verdict's sentences, a table a section, and the figure."""
    verdict = probe["verdict"]
    changes = [f"Next: {change}" for change in verdict["try"]]
    tables = [_room(probe), _reach(probe), _fidelity(probe), _advantage(probe), _best_of(probe)]
    plot = Plot(
        "probe", "What a gradient can buy here", "Whiskers: 95 % intervals over problems.",
        partial(draw, probe),
    )  # fmt: skip
    answer = verdict["answer"]
    title = f"Verdict: {answer}; {_MEANINGS[answer]}"
    return Report("probe", title, tables, [*verdict["sentences"], *changes], [plot])


_MEANINGS = {
    "pays": "compare ∇-Reasoner with best-of-N before you use it",
    "costs": "do not use ∇-Reasoner here",
    "cannot matter": "do not use ∇-Reasoner here",
    "cannot be told": "no reason to use ∇-Reasoner here so far",
}


def _with_range(own: Mapping[str, Any] | None, scale: float, digits: int, sign: str = "") -> str:
    """Word a figure with its interval: 3.1 (2.9 to 3.3)."""
    if own is None or own["value"] is None or own["value"] != own["value"]:
        return MISSING
    value, (low, high) = scale * own["value"], own["ci95"]
    if low is None or low != low:
        return f"{value:{sign}.{digits}f}"
    form = f"{sign}.{digits}f"
    return f"{value:{form}} ({scale * low:{form}} to {scale * high:{form}})"


def _figure(header: str, key: str, scale: float = 1, digits: int = 2, sign: str = "") -> Column:
    return Column(header, key, partial(_with_range, scale=scale, digits=digits, sign=sign))


def _two_columns(name: str, title: str, rows: list[tuple[str, str]], *notes: str) -> Table:
    made: list[Row] = [{"what": what, "figure": figure} for what, figure in rows]
    return Table(name, title, [text("", "what"), Column("mean (95 %)", "figure", str)], made, notes)


def _room(probe: Probe) -> Table:
    room = probe["room"]
    rows = [
        ("tokens of a response", _with_range(room["tokens"], 1, 1)),
        ("positions with two plausible tokens", _with_range(room["uncertain_positions"], 1, 1)),
        ("positions that are refined", _with_range(room["refined_positions"], 1, 1)),
        ("plausible tokens at one", _with_range(room["plausible_tokens"], 1, 1)),
        ("probability outside of its top 2, %", _with_range(room["outside_top_2"], 100, 1)),
        ("greedy, % right", _with_range(room["greedy"], 100, 1)),
        *((f"pass@{k}, %", _with_range(own, 100, 1)) for k, own in room["pass_at"].items()),
    ]
    return _two_columns("room", "Room", rows, "Plausible: at least 1 % under the policy.")


def _reach(probe: Probe) -> Table:
    columns = [
        text("Setting", "setting"),
        Column("Bound, %", "variation_bound", lambda b: number(None if b is None else 100 * b)),
        _figure("Moved, %", "variation", 100, 1),
        Column("Other draws, %", lambda r: 100 * r["draws_that_differ"]["value"], number),
        Column("Certified", lambda r: r["certified"]["value"], partial(percent, digits=0)),
        Column("Flips", lambda r: r["flips"]["value"], number, 2),
        Column("Logits moved", lambda r: r["logits_moved"]["value"], partial(percent, digits=0)),
    ]
    notes = (
        "Moved: total variation between the refined draw and the policy's own. Bound: the most "
        "that any gradient could move. Each row changes one option.",
    )
    return Table("reach", "Reach", columns, probe["reach"]["settings"], notes)


def _fidelity(probe: Probe) -> Table:
    fidelity = probe["fidelity"]
    rows = [
        {**row, "against": {"kept": "rest kept", "rolled": "rolled out"}[row["change"]]}
        for row in fidelity["rankings"]
    ]
    columns = [
        text("Ranking", "ranking"),
        text("Against", "against"),
        _figure("Rank correlation", "correlation", 1, 2, "+"),
        _figure("Above policy", "above_policy", 1, 2, "+"),
        Column("Top token", lambda r: r["top_1"]["value"], partial(percent, digits=0)),
    ]
    chance, ceiling = fidelity["chance"]["top_1"], fidelity["ceiling"]["value"]
    notes = (
        f"{count(fidelity['positions'])} positions, {count(fidelity['tokens'])} tokens, "
        f"{fidelity['rollouts']} rollouts each, whose noise is taken out of correlations. By "
        f"chance: correlation 0, top token {percent(chance, 0)}. Two halves of the rollouts agree "
        f"about the top token in {percent(ceiling, 0)}.",
    )
    return Table("fidelity", "Fidelity", columns, rows, notes)


def _advantage(probe: Probe) -> Table:
    own = probe["advantage"]
    margin = own["margin"]
    rows = [
        ("reward, a draw", _with_range(own["per_draw"], 1, 3, "+")),
        ("reward, a draw that differs", _with_range(own["per_differing_draw"], 1, 2, "+")),
        ("draws of a problem", _with_range(own["draws_per_problem"], 1, 1)),
        ("calls for gradients, a problem", _with_range(own["calls_per_problem"], 1, 1)),
        ("runs that differ, %", _with_range(own["runs_that_differ"], 100, 1)),
        (f"margin at N = {own['n']}: reward", _with_range(margin["reward"], 1, 3, "+")),
        (f"margin at N = {own['n']}: points", _with_range(margin["accuracy"], 100, 1, "+")),
    ]
    return _two_columns("advantage", "Advantage over the twin", rows)


def _best_of(probe: Probe) -> Table:
    columns = [
        Column("Best of", "k", count),
        _figure("Reward", "reward", 1, 2, "+"),
        _figure("Right, %", "right", 100, 1),
    ]
    reward = probe["reward"]
    notes = [reward["note"]] if reward["note"] else []
    if reward["auc"] is not None:
        auc = _with_range(reward["auc_within"], 1, 2), _with_range(reward["auc"], 1, 2)
        notes.append(f"AUC of right against wrong: {auc[0]} within a question, {auc[1]} over all.")
    return Table("reward", "Reward", columns, reward["best_of"], notes)


# --- the figure ---


def draw(probe: Probe) -> Figure:
    """Draw reach by learning rate, fidelity by ranking, and reward against correctness."""
    figure, axes = new_figure(10.5, 3.4, columns=3, shared=False)
    _draw_reach(axes[0], probe["reach"]["settings"])
    _draw_fidelity(axes[1], probe["fidelity"]["rankings"])
    _draw_reward(axes[2], probe["reward"]["best_of"])
    return figure


def _draw_reach(axes: Axes, settings: list[Row]) -> None:
    given, *others = settings
    rows = [given, *(row for row in others if row["setting"].startswith("lr="))]
    rows.sort(key=lambda row: row["lr"])
    rates = [row["lr"] for row in rows]
    bounds = [(r, row["variation_bound"]) for r, row in zip(rates, rows, strict=True)]
    if known := [(rate, 100 * bound) for rate, bound in bounds if bound is not None]:
        axes.plot(*zip(*known, strict=True), color=COLOURS[7], ls="--", label="at most")
    moved = [100 * row["variation"]["value"] for row in rows]
    arms = [_arms(row["variation"], 100) for row in rows]
    axes.errorbar(rates, moved, yerr=list(zip(*arms, strict=True)), fmt="o-", color=COLOURS[0],
                  capsize=3, label="measured")  # fmt: skip
    axes.set(xscale="log", xlabel="learning rate", ylabel="of a draw moved, %", title="Reach")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend(frameon=False, fontsize=8)
    tidy(axes, "both")


def _draw_fidelity(axes: Axes, rankings: list[Row]) -> None:
    rows = [row for row in rankings if row["change"] == "rolled"]
    bottom = max(1, len(rows)) - 0.5
    for i, row in enumerate(rows):
        own = row["correlation"]
        if own["value"] == own["value"]:
            colour = COLOURS[1 if row["ranking"] == "policy" else 0]
            arms = [[arm] for arm in _arms(own, 1)]
            axes.errorbar([own["value"]], [i], xerr=arms, fmt="o", color=colour, capsize=3)
    axes.axvline(0, color=COLOURS[6], lw=1)
    axes.set_yticks(range(len(rows)), [row["ranking"] for row in rows], fontsize=8)
    axes.set(ylim=(bottom, -0.5), xlabel="rank correlation, rolled out", title="Fidelity")
    tidy(axes, "x")


def _draw_reward(axes: Axes, rows: list[Row]) -> None:
    graded = [row for row in rows if row["right"] is not None]
    ks = [row["k"] for row in rows]
    axes.plot(ks, [row["reward"]["value"] for row in rows], "s--", color=COLOURS[1])
    axes.set(xscale="log", xlabel="best of k drafts", title="Reward")
    axes.set_ylabel("reward (dashed)", color=COLOURS[1])
    axes.set_xticks(ks, list(map(str, ks)))
    axes.minorticks_off()
    if graded:
        other = axes.twinx()
        arms = [_arms(row["right"], 100) for row in graded]
        other.errorbar(
            [row["k"] for row in graded], [100 * row["right"]["value"] for row in graded],
            yerr=list(zip(*arms, strict=True)), fmt="o-", color=COLOURS[0], capsize=3,
        )  # fmt: skip
        other.set_ylabel("right, % (solid)", color=COLOURS[0])
        other.spines["top"].set_visible(False)
    tidy(axes, "y")


def _arms(own: Mapping[str, Any], scale: float) -> tuple[float, float]:
    value, (low, high) = own["value"], own["ci95"]
    if not low <= high:
        return 0.0, 0.0
    return scale * max(0.0, value - low), scale * max(0.0, high - value)
