"""`nabla-eval demo`: every method of the main comparison on the embedded pair, through lm-eval."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nabla_eval.errors import DataError
from nabla_eval.signals import stoppable

if TYPE_CHECKING:
    from nabla_eval.analysis.runs import Run
    from nabla_eval.cli.screen import Screen
    from nabla_eval.reporting.summary import Summary
    from nabla_eval.runs.sweep import Sweep
    from nabla_eval.runs.sweep_file import SweepFile

TASK = "nabla_countdown"
N = 8
# The embedded reward is the logit that a response is right: above 0, right is likelier than wrong.
STOP_REWARD = 0.0


@dataclass(frozen=True)
class DemoRow:
    """One line of the tables: a method with its options, and the folder of its files."""

    name: str
    folder: str
    options: Mapping[str, Any] = field(default_factory=dict)


GREEDY = DemoRow("greedy", "greedy", {"method": "greedy"})
MAJORITY = DemoRow(
    f"self-consistency@{N}", "self_consistency", {"method": "self_consistency", "n": N}
)
BEST = DemoRow(f"best-of-{N}", "best_of_n", {"method": "best_of_n", "n": N})
BEST_STOP = DemoRow(
    f"best-of-{N}, stop",
    "best_of_n_stop",
    {"method": "best_of_n", "n": N, "stop_reward": STOP_REWARD},
)
NABLA = DemoRow("nabla", "nabla", {"method": "nabla", "n": N})
# Twins keep the default's resample temperature, which is also their own best (reports/defaults).
TWIN = DemoRow("twin", "twin", {"method": "nabla", "n": N, "steps": 0})
NABLA_STOP = DemoRow("nabla, stop", "nabla_stop", {**NABLA.options, "stop_reward": STOP_REWARD})
TWIN_STOP = DemoRow("twin, stop", "twin_stop", {**TWIN.options, "stop_reward": STOP_REWARD})
ROWS = (GREEDY, MAJORITY, BEST, NABLA, TWIN, BEST_STOP, NABLA_STOP, TWIN_STOP)


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(min=2),
    default=200,
    show_default=True,
    help="Problems per method.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Problems that advance together; changes the speed, not the results.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of every random draw.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    show_default=True,
    default=Path("results", "demo"),
    help="Folder for traces, results, summary.",
)
@click.option("--device", default=None, help="cpu, cuda, cuda:1, ...  [default: CUDA if there is]")
def demo(limit: int, batch_size: int, seed: int, output: Path, device: str | None) -> None:
    """Compare ∇-Reasoner, its zeroth-order twin and the sampling baselines on the embedded pair.

    Runs the task nabla_countdown through lm-eval once per method, prints accuracy, cost,
    rejection rates and example revisions, and writes everything to the output folder.

    Example: nabla-eval demo --limit 500 --seed 1
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # on few cores, waiting threads must yield
    from nabla_eval.cli.loading import load
    from nabla_eval.cli.screen import Screen
    from nabla_eval.cli.sweep_progress import SweepProgress
    from nabla_eval.runs.folder import clear
    from nabla_eval.runs.sweep import Sweep

    console, began = Screen(), time.perf_counter()
    given = ["--limit", limit, "--batch-size", batch_size, "--seed", seed]
    command = shlex.join(map(str, ["nabla-eval", "demo", *given]))
    sweep = Sweep(
        sweep_of_rows(limit=limit, batch_size=batch_size, device=device, seed=seed), output, command
    )
    for row in ROWS:
        clear(output / row.folder)
    progress = SweepProgress(console)
    progress.watch(sweep)
    load()
    with stoppable(lambda: f"{sweep.kept()}; the same command starts over, to time each method."):
        with progress.show():
            sweep.run()
        if sweep.failed:
            raise DataError(sweep.failed[0].error)
        runs = read_runs(output)
        summary = summarise(runs, command, facts_of(sweep, len(runs[GREEDY.folder].answers)))
    present(console, summary, output, time.perf_counter() - began)


def sweep_of_rows(*, seed: int, **options: Any) -> SweepFile:
    """Return the demo as a sweep, each row in the folder of its method."""
    from nabla_eval.runs.sweep_file import sweep_of

    variants = [{"name": row.name, **row.options} for row in ROWS]
    source = {"name": "demo", "tasks": TASK, "seeds": seed, **options, "variants": variants}
    read = sweep_of(Path("demo"), source)
    cells = [replace(cell, folder=row.folder) for row, cell in zip(ROWS, read.cells, strict=True)]
    return replace(read, cells=tuple(cells))


def read_runs(output: Path) -> dict[str, Run]:
    """Return the runs that the demo left, by folder name."""
    from nabla_eval.analysis.folders import read_folder
    from nabla_eval.analysis.runs import Run

    runs = {}
    for row in ROWS:
        (part,) = read_folder(output / row.folder)
        runs[row.folder] = Run.of(row.name, part.records, part.scores, part.seconds)
    return runs


def facts_of(sweep: Sweep, problems: int) -> dict[str, Any]:
    """Return what a reader needs to make the same numbers again."""
    manifests = [state.manifest for state in sweep.cells if state.manifest is not None]
    first, best = manifests[0], manifests[ROWS.index(BEST)]  # greedy asks no reward model
    return {
        "task": TASK,
        "problems per method": problems,
        "seed": sweep.cells[0].cell.seed,
        "batch size": first["batch_size"],
        "device": first["device"],
        "models": best["models"],
        "versions": first["versions"],
        "options": {m["name"]: {"method": m["method"], **m["config"]} for m in manifests},
    }


def summarise(runs: Mapping[str, Run], command: str, facts: Mapping[str, Any]) -> Summary:
    """Tables, and what they say about the questions that the method has to answer."""
    from nabla_eval.reporting import summary
    from nabla_eval.reporting.rows import verdict

    nabla, twin, nabla_stop, twin_stop = (
        runs[row.folder] for row in (NABLA, TWIN, NABLA_STOP, TWIN_STOP)
    )
    best, best_stop = runs[BEST.folder], runs[BEST_STOP.folder]
    accuracy = summary.accuracy_and_cost_table(runs.values())
    differences = [
        summary.against_table(nabla, [twin, best], twins=[twin]),
        replace(
            summary.against_table(nabla_stop, [twin_stop, best_stop], twins=[twin_stop]),
            name="differences_stop",
        ),
    ]
    searches = [nabla, twin, nabla_stop, twin_stop]
    tables = [
        accuracy,
        summary.rates_table(searches, best),
        summary.rates_by_candidate_table(searches),
        *differences,
        summary.revision_table(nabla),
    ]
    calls = {row["run"]: row["model_calls"] for row in accuracy.rows}
    spent = ", ".join(f"{run.name} {calls[run.name]:.0f}" for run in (*searches, best, best_stop))
    sentences = [
        *(verdict(row) for table in differences for row in table.rows
          if row["measure"] != "first rejection"),
        f"Model calls per problem: {spent}.",
        "The twin is ∇-Reasoner without its gradient (steps=0): what the gradient adds is nabla "
        "minus twin. Stop: end at the first response whose reward reaches "
        f"{STOP_REWARD:g}, likelier right than wrong.",
        "One seed and one small pair: a result about these, not about ∇-Reasoner at large.",
    ]  # fmt: skip
    title = "nabla_eval demo: Countdown on the embedded pair"
    return summary.Summary(title, command, sentences, tables, facts)


def present(console: Screen, summary: Summary, output: Path, seconds: float) -> None:
    """Print the tables and the sentences, write the files, say where they are."""
    from rich.text import Text

    from nabla_eval.reporting.summary import write
    from nabla_eval.reporting.tables import fitting, to_rich
    from nabla_eval.reporting.text import bullet

    write(summary, output)
    for table in summary.tables:
        for part in fitting(table, console.width):
            console.print()
            console.print(to_rich(part))
    console.print(Text("\nWhat happened", style="bold"))
    for sentence in summary.sentences:
        console.print(Text(bullet(sentence, console.width)))
    console.print(
        Text(f"\n{seconds:.0f} s in all. Everything is in {output}:", style="bold"), soft_wrap=True
    )
    console.print(
        Text(
            "  summary.md, summary.json        these tables, unrounded in the JSON\n"
            "  METHOD/trace-rank0.jsonl        every decision and cost of each problem\n"
            "  METHOD/results_*, samples_*     what lm-eval reports\n"
            "  log.txt                         what lm-eval and its libraries printed"
        )
    )
