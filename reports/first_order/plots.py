"""Accuracy by cost, and reward by cost: what more compute buys, and what it only seems to buy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from decoded import COSTS, Runs
from grid import Study
from margins import rewards

LABELS = {
    "calls": "model calls a problem",
    "gflops": "GFLOP a problem",
    "milliseconds": "processor ms a problem",
}
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#999999", "#000000", "#8C564B")
FIRST_ORDER = ("#D55E00", "#E7298A", "#B22222", "#FF7F0E", "#7B2D8B")


def draw(study: Study, found: Mapping[str, Runs], title: str, file: Path) -> None:
    """One panel for each cost, and the reward of the answers in the last."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    figure, axes = plt.subplots(2, 2, figsize=(11, 8.4), layout="constrained")
    styles = _styles(study)
    for family, (colour, marker, line) in styles.items():
        own = [found[v.name] for v in study.families[family].variants if v.name in found]
        if not own:
            continue
        for axis, unit in zip(axes.flat, COSTS, strict=False):
            ordered = sorted(own, key=lambda run: run.cost(unit))
            axis.errorbar(
                [run.cost(unit) for run in ordered],
                [100 * run.accuracy for run in ordered],
                [100 * run.by_problem().std(ddof=1) / len(run.by_problem()) ** 0.5
                 for run in ordered],
                color=colour, marker=marker, ls=line, lw=1.2, ms=6, alpha=0.85, label=family,
            )  # fmt: skip
        axes[1, 1].scatter(
            [rewards(run) for run in own], [100 * run.accuracy for run in own],
            color=colour, marker=marker, s=36,
        )  # fmt: skip
    for axis, unit in zip(axes.flat, COSTS, strict=False):
        axis.set_xlabel(LABELS[unit])
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[1, 1].set_xlabel("mean reward of the answers (log-odds that they are right)")
    for axis in axes.flat:
        axis.set_ylabel("accuracy, % (± 1 standard error)")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  frameon=False, fontsize=9)  # fmt: skip
    figure.suptitle(title)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _styles(study: Study) -> dict[str, tuple[str, str, str]]:
    """First-order families are red triangles on full lines, controls other shapes on dashes."""
    styles = {}
    ours, others = itertools.cycle(FIRST_ORDER), itertools.cycle(PALETTE)
    shapes = itertools.cycle("osDPXv*h")
    for family in study.families.values():
        if family.role == "first-order":
            styles[family.name] = (next(ours), "^", "-")
        elif family.role == "control":
            styles[family.name] = (next(others), next(shapes), "--")
        else:
            styles[family.name] = ("#D55E00", "1", ":")
    return styles
