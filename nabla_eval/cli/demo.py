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
from nabla_eval.errors import DataError
from nabla_eval.signals import stoppable

if TYPE_CHECKING:
    from nabla_eval.analysis.runs import Run
    from nabla_eval.reporting.demo import Summary
    from nabla_eval.runs.sweep import Sweep
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

    Runs the task nabla_countdown through lm-eval once per method, prints accuracy, cost,
    rejection rates and example revisions, and writes everything to the output folder.

    Example: nabla-eval demo --limit 500 --seed 1
    """
    from nabla_eval.analysis.folders import read_folder
    from nabla_eval.cli.sweep import SweepProgress
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
        runs = {}
        for folder, row in ROWS.items():
            (run,) = read_folder(output / folder)
            runs[folder] = replace(run, name=str(row["name"]))
        summary = summarise(runs, command, facts_of(sweep, len(runs["greedy"].answers)))
    present(console, summary, output, time.perf_counter() - began)


def sweep_of_rows(**options: Any) -> SweepFile:
    """Return the demo as a sweep, each row in the folder of its method."""
    from nabla_eval.runs.sweep_file import sweep_of

    source = {"name": "demo", "tasks": TASK, "variants": list(ROWS.values()), **options}
    read = sweep_of(Path("demo"), source)
    pairs = zip(read.cells, ROWS, strict=True)
    return replace(read, cells=tuple(replace(cell, folder=folder) for cell, folder in pairs))


def facts_of(sweep: Sweep, problems: int) -> dict[str, Any]:
    """Return what a reader needs to make the same numbers again."""
    manifests = {s.cell.folder: s.manifest for s in sweep.cells if s.manifest is not None}
    best = manifests["best_of_n"]  # greedy asks no reward model
    return {
        "task": TASK,
        "problems per method": problems,
        "seed": sweep.cells[0].cell.seed,
        "batch size": best["batch_size"],
        "device": best["device"],
        "models": best["models"],
        "versions": best["versions"],
        "options": {m["name"]: {"method": m["method"], **m["config"]} for m in manifests.values()},
    }


def summarise(runs: Mapping[str, Run], command: str, facts: Mapping[str, Any]) -> Summary:
    """Return tables, and what they say about the questions that the method has to answer."""
    from nabla_eval.reporting import demo as tables_of
    from nabla_eval.reporting.rows import verdict

    searches = [runs[name] for name in ("nabla", "twin", "nabla_stop", "twin_stop")]
    nabla, twin, nabla_stop, twin_stop = searches
    best, best_stop = runs["best_of_n"], runs["best_of_n_stop"]
    accuracy = tables_of.accuracy_and_cost_table(runs.values())
    stops = tables_of.against_table(nabla_stop, [twin_stop, best_stop], twins=[twin_stop])
    differences = [
        tables_of.against_table(nabla, [twin, best], twins=[twin]),
        replace(stops, name="differences_stop"),
    ]
    tables = [
        accuracy,
        tables_of.rates_table(searches, best),
        tables_of.rates_by_candidate_table(searches),
        *differences,
        tables_of.revision_table(nabla),
    ]
    compared = [row for table in differences for row in table.rows]
    calls = {row["run"]: row["model_calls"] for row in accuracy.rows}
    spent = ", ".join(f"{run.name} {calls[run.name]:.0f}" for run in (*searches, best, best_stop))
    sentences = [
        *(verdict(row) for row in compared if row["measure"] != "first rejection"),
        f"Model calls per problem: {spent}.",
        "The twin is ∇-Reasoner without its gradient (steps=0): what the gradient adds is nabla "
        "minus twin. Stop: end at the first response whose reward reaches "
        f"{STOP_REWARD:g}, likelier right than wrong.",
        "One seed and one small pair: a result about these, not about ∇-Reasoner at large.",
    ]
    title = "nabla_eval demo: Countdown on the embedded pair"
    return tables_of.Summary(title, command, sentences, tables, facts)


def present(console: Screen, summary: Summary, output: Path, seconds: float) -> None:
    """Print the tables and the sentences, write the files, say where they are."""
    from nabla_eval.reporting.demo import write
    from nabla_eval.reporting.text import bullet

    write(summary, output)
    console.tables(summary.tables)
    console.print("\nWhat happened", style="bold")
    for sentence in summary.sentences:
        console.print(bullet(sentence, console.width))
    files = {
        "summary.md, summary.json": "these tables, unrounded in the JSON",
        "METHOD/trace-rank0.jsonl": "every decision and cost of each problem",
        "METHOD/results_*, samples_*": "what lm-eval reports",
        "log.txt": "what lm-eval and its libraries printed",
    }
    console.files(f"{seconds:.0f} s in all. Everything is in {output}", files)
