"""`nabla-eval demo`: every method of the main comparison on the embedded pair, through lm-eval."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nabla_eval.cli.options import COUNT, FOLDER, device, option
from nabla_eval.cli.screen import Screen, load
from nabla_eval.cli.sweep import SweepProgress
from nabla_eval.errors import DataError
from nabla_eval.signals import stoppable
from nabla_eval.terminal import say

if TYPE_CHECKING:
    from nabla_eval.runs.sweep_file import SweepFile

TASK = "nabla_countdown"
N = 8
# The embedded reward is the logit that a response is right: above 0, right is likelier than wrong.
STOP_REWARD = 0.0

BEST_OF_N = {"name": f"best-of-{N}", "method": "best_of_n", "n": N}
NABLA = {"name": "nabla", "method": "nabla", "n": N}
# Twins keep the default's resample temperature, which is also their own best (reports/defaults).
TWIN = {**NABLA, "name": "twin", "steps": 0}


def stopped(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose method stops early."""
    return {**row, "name": f"{row['name']}, stop", "stop_reward": STOP_REWARD}


# The variants of a sweep, by the folder of their run.
ROWS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"name": "greedy", "method": "greedy"},
    "self_consistency": {"name": f"self-consistency@{N}", "method": "self_consistency", "n": N},
    "best_of_n": BEST_OF_N,
    "nabla": NABLA,
    "twin": TWIN,
    "best_of_n_stop": stopped(BEST_OF_N),
    "nabla_stop": stopped(NABLA),
    "twin_stop": stopped(TWIN),
}


@click.command()
@option("--limit", "Problems per method.", type=click.IntRange(min=2), default=200)
@option(
    "--batch-size",
    "Problems that advance together; changes the speed, not the results.",
    type=COUNT,
    default=256,
)
@option("--seed", "Of every random draw.", type=int, default=0)
@option(
    "--output",
    "Folder for traces, results, summary.",
    type=FOLDER,
    default=Path("results", "demo"),
)
@device()
def demo(limit: int, batch_size: int, seed: int, output: Path, device: str | None) -> None:
    """Compare ∇-Reasoner, its zeroth-order twin and the sampling baselines on the embedded pair.

    Runs the task nabla_countdown through lm-eval once per method, prints accuracy, cost and
    rejection rates beside their controls, and writes everything to the output folder.

    Example: nabla-eval demo --limit 500 --seed 1
    """
    from nabla_eval.analysis.folders import read_folder
    from nabla_eval.reporting.demo import demo_report
    from nabla_eval.reporting.tables import json_text, report_json, report_markdown
    from nabla_eval.reporting.text import write_files
    from nabla_eval.runs.folder import clear
    from nabla_eval.runs.sweep import Sweep

    console, began = Screen(), time.perf_counter()
    given = ["--limit", limit, "--batch-size", batch_size, "--seed", seed]
    command = shlex.join(map(str, ["nabla-eval", "demo", *given]))
    file = sweep_of_rows(limit=limit, batch_size=batch_size, device=device, seeds=seed)
    sweep = Sweep(file, output, command)
    for folder in ROWS:
        clear(output / folder)
    progress = SweepProgress(console, sweep.cells, output)
    sweep.ended = progress.tell
    load()
    with stoppable(lambda: f"{sweep.kept()}; the same command starts over, to time each method."):
        with progress.show():
            sweep.run()
        if sweep.failed:
            raise DataError(sweep.failed[0].error)
        found = [(row["name"], read_folder(output / folder)) for folder, row in ROWS.items()]
        made = demo_report([replace(run, name=str(name)) for name, (run,) in found])
    stored = {"title": made.title, "summary": list(made.sentences), **report_json(made)}
    summary = {"summary.json": json_text(stored), "summary.md": report_markdown(made)}
    write_files(output, summary)
    console.report(made)
    files = {
        "summary.md, summary.json": "these tables, unrounded in the JSON",
        "METHOD/trace-rank0.jsonl": "every decision and cost of each problem",
        "METHOD/results_*, samples_*": "what lm-eval reports",
        "study.json, log.txt": "command and versions; what libraries printed",
    }
    console.files(f"{time.perf_counter() - began:.0f} s in all. Everything is in {output}", files)
    say(f"More tables and figures: nabla-eval report all {output} --output {output}/report")


def sweep_of_rows(**options: Any) -> SweepFile:
    """Return the demo as a sweep, each row in the folder of its method."""
    from nabla_eval.runs.sweep_file import sweep_of

    source = {"name": "demo", "tasks": TASK, "variants": list(ROWS.values()), **options}
    read = sweep_of(Path("demo"), source)
    pairs = zip(read.cells, ROWS, strict=True)
    return replace(read, cells=tuple(replace(cell, folder=folder) for cell, folder in pairs))
