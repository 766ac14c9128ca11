"""`nabla-eval demo`: every method of the main comparison on the embedded pair, through lm-eval."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from nabla_eval.cli.loading import load
from nabla_eval.cli.quiet import quiet
from nabla_eval.cli.screen import Screen
from nabla_eval.errors import DataError
from nabla_eval.stopping import stoppable

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
    console = Screen()
    command = ["nabla-eval", "demo", "--limit", limit, "--batch-size", batch_size, "--seed", seed]
    began = time.perf_counter()
    load()
    kept = f"the answers so far are in {output}; the same command starts over, to time each method."
    with stoppable(lambda: kept), quiet(output / "log.txt"):
        study = _Study(console, output, limit, batch_size, seed, device)
        runs = study.run()
        summary = _summarise(runs, shlex.join(map(str, command)), study.facts(runs))
    _present(console, summary, output, time.perf_counter() - began)


class _Study:
    """The rows' evaluations, on one pair of models that is loaded once."""

    def __init__(
        self,
        console: Screen,
        output: Path,
        limit: int,
        batch_size: int,
        seed: int,
        device: str | None,
    ) -> None:
        from lm_eval.tasks import TaskManager

        from nabla_eval.api import load_pair
        from nabla_eval.harness.tasks import tasks_path

        console.print("Loading the embedded policy and reward model ...")
        self.console, self.output, self.limit = console, output, limit
        self.batch_size, self.seed = batch_size, seed
        self.pair = load_pair(device=device)
        # Seconds each: indexing lm-eval's own tasks, and making the problems; so none and once.
        self.manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
        self.task = self.manager.load([TASK])["tasks"][TASK]

    def run(self) -> dict[str, Any]:
        """Evaluate every row; returns the runs by folder name."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        runs = {}
        with Progress(
            *columns,
            console=self.console,
            disable=not self.console.is_terminal,
            redirect_stdout=False,  # of the logs that are redirected already
            redirect_stderr=False,
        ) as progress:
            for row in ROWS:
                bar = progress.add_task(row.name, total=self.limit)

                def advance(done: int, total: int, bar: Any = bar) -> None:
                    progress.update(bar, completed=done, total=total)

                run = runs[row.folder] = self._evaluate(row, advance)
                if not self.console.is_terminal:
                    self.console.print(
                        f"{run.name}: {len(run.answers)} problems, {run.seconds:.1f} s"
                    )
        return runs

    def _evaluate(self, row: DemoRow, progress: Callable[[int, int], None]) -> Any:
        """One row through lm-eval's `simple_evaluate`; its files go to a folder of its own."""
        from lm_eval import simple_evaluate

        from nabla_eval.analysis.accuracy import scores_of
        from nabla_eval.analysis.runs import Run
        from nabla_eval.harness.lm import NablaLM
        from nabla_eval.harness.lmeval import repeating_nothing
        from nabla_eval.traces.keep import kept

        folder = self.output / row.folder
        for old in folder.glob("trace-rank*.jsonl"):  # resuming would make the seconds wrong
            old.unlink()
        lm = NablaLM(
            pair=self.pair,
            batch_size=self.batch_size,
            seed=self.seed,
            trace_dir=str(folder),
            **row.options,
        )
        lm.progress = progress
        clock = _Timed(lm.generate_until)
        lm.generate_until = clock  # type: ignore[method-assign]
        with repeating_nothing():
            results = simple_evaluate(
                model=lm, tasks=[self.task], limit=self.limit, task_manager=self.manager
            )
        samples = results.pop("samples")[TASK]
        _save(folder, results, samples)
        return Run.of(row.name, list(kept(folder)), scores_of(TASK, samples), clock.seconds)

    def facts(self, runs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a reader needs to make the same numbers again."""
        first = runs[GREEDY.folder]
        return {
            "task": TASK,
            "problems per method": len(first.answers),
            "seed": self.seed,
            "batch size": self.batch_size,
            "device": str(self.pair.policy.device),
            "models": first.models,
            "versions": first.versions,
            "options": {run.name: {"method": run.method, **run.config} for run in runs.values()},
        }


class _Timed:
    """A function and the seconds that its calls took: lm-eval's own work is not the method's."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.function(*args, **options)
        finally:
            self.seconds += time.perf_counter() - began


def _save(folder: Path, results: Mapping[str, Any], samples: list[Mapping[str, Any]]) -> None:
    """lm-eval's own results and samples, as `lm_eval --output_path --log_samples` words them."""
    from lm_eval.utils import handle_non_serializable

    def dumps(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, indent=indent, default=handle_non_serializable) + "\n"

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(dumps(results, indent=2), encoding="utf-8")
        lines = "".join(map(dumps, samples))
        (folder / f"samples_{TASK}.jsonl").write_text(lines, encoding="utf-8")
    except OSError as error:
        raise DataError(f"Cannot write to {folder}: {error}. Choose another --output.") from error


def _summarise(runs: Mapping[str, Any], command: str, facts: Mapping[str, Any]) -> Any:
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


def _present(console: Screen, summary: Any, output: Path, seconds: float) -> None:
    """Print the tables and the sentences, write the files, say where they are."""
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
            "  METHOD/results.json, samples_*  what lm-eval reports\n"
            "  log.txt                         what lm-eval and its libraries printed"
        )
    )
