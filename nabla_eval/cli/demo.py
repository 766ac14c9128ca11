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
from nabla_eval.cli.sweep_progress import SweepProgress
from nabla_eval.errors import DataError
from nabla_eval.signals import stoppable
from nabla_eval.terminal import say

if TYPE_CHECKING:
    from nabla_eval.runs.sweep_file import SweepFile

TASK = "nabla_countdown"
N = 8
# The embedded reward is the logit that a response is right: above 0, right is likelier than wrong.
STOP_REWARD = 0.0
WORDS_PROBLEMS = 12
WORDS_TOKENS = 220  # of a response to a word problem, as its task says

BEST_OF_N = {"name": f"best-of-{N}", "method": "best_of_n", "n": N}
NABLA = {"name": "nabla", "method": "nabla", "n": N}
# Twins keep the default's resample temperature, which is also their own best (reports/defaults).
TWIN = {**NABLA, "name": "twin", "steps": 0}


def stopped(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose method stops early."""
    return {**row, "name": f"{row['name']}+stop", "stop_reward": STOP_REWARD}


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


def rows_of(preset: str | None = None, lr: float | None = None) -> dict[str, Mapping[str, Any]]:
    """Return the rows, and beside them ∇-Reasoner with other settings, each with its twin."""
    rows = dict(ROWS)
    if preset is not None:
        for folder, row in {"nabla": NABLA, "twin": TWIN}.items():
            named = {"name": f"{row['name']}+{preset}", "preset": preset}
            rows[f"{folder}_{preset}"] = {**row, **named}
    if lr is not None:  # the twin of `NABLA` is its twin too: it takes no step
        rows["nabla_lr"] = {**NABLA, "name": f"nabla+lr={lr:g}", "lr": lr}
    return rows


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
    "--preset",
    "Also run ∇-Reasoner and its twin with these values instead of ours.",
    type=click.Choice(("paper", "released", "released_aime", "released_amc")),
)
@option(
    "--lr",
    "Also run ∇-Reasoner with this learning rate instead of 0.01.",
    type=click.FloatRange(min=0, min_open=True),
)
@option(
    "--output",
    "Folder for traces, results, summary.",
    type=FOLDER,
    default=Path("results", "demo"),
)
@device()
def demo(
    limit: int,
    batch_size: int,
    seed: int,
    preset: str | None,
    lr: float | None,
    output: Path,
    device: str | None,
) -> None:
    """Compare ∇-Reasoner, its zeroth-order twin and the sampling baselines on the embedded pair.

    Runs the task nabla_countdown through lm-eval once per method, prints accuracy, cost and
    rejection rates beside their controls, and writes everything to the output folder.

    \b
    Example:
      nabla-eval demo --limit 500 --seed 1
      nabla-eval demo --preset paper --lr 0.3
    """
    from nabla_eval.analysis.folders import read_folder
    from nabla_eval.reporting.demo import demo_report
    from nabla_eval.reporting.tables import json_text, report_json, report_markdown
    from nabla_eval.reporting.text import write_files
    from nabla_eval.runs.folder import clear
    from nabla_eval.runs.quiet import quiet
    from nabla_eval.runs.sweep import Sweep

    console, began = Screen(), time.perf_counter()
    given = ["--limit", limit, "--batch-size", batch_size, "--seed", seed]
    asked = {"--preset": preset, "--lr": lr}
    given += [word for pair in asked.items() if pair[1] is not None for word in pair]
    command = shlex.join(map(str, ["nabla-eval", "demo", *given]))
    rows = rows_of(preset, lr)
    file = sweep_of_rows(rows, limit=limit, batch_size=batch_size, device=device, seeds=seed)
    sweep = Sweep(file, output, command)
    for folder in rows:
        clear(output / folder)
    progress = SweepProgress(console, sweep.cells, output)
    sweep.ended = progress.tell
    load()
    with stoppable(lambda: f"{sweep.kept()}; the same command starts over, to time each method."):
        with progress.show():
            sweep.run()
        if sweep.failed:
            raise DataError(sweep.failed[0].error)
        found = [(row["name"], read_folder(output / folder)) for folder, row in rows.items()]
        made = demo_report([replace(run, name=str(name)) for name, (run,) in found])
    stored = {"title": made.title, "summary": list(made.sentences), **report_json(made)}
    summary = {"summary.json": json_text(stored), "summary.md": report_markdown(made)}
    write_files(output, summary)
    console.report(made)
    with quiet(output / "words_log.txt"):
        told = revisions(seed, device, asked=min(limit, WORDS_PROBLEMS))
    for text in told:
        say(f"\n{text}")
    files = {
        "summary.md, summary.json": "these tables, unrounded in the JSON",
        "METHOD/trace-rank0.jsonl": "every decision and cost of each problem",
        "METHOD/results_*, samples_*": "what lm-eval reports",
        "study.json, log.txt, words_log.txt": "command and versions; what libraries printed",
    }
    console.files(f"{time.perf_counter() - began:.0f} s in all. Everything is in {output}", files)
    say(f"More tables and figures: nabla-eval report all {output} --output {output}/report")


def revisions(seed: int, device: str | None, *, asked: int, shown: int = 2) -> list[str]:
    """Return what ∇-Reasoner did on word problems where it made a wrong draft right."""
    from nabla_eval.api import generate, load_pair
    from nabla_eval.embedded.words import problems, verify
    from nabla_eval.reporting.display import story

    told = problems(asked, "test")
    answers = generate(
        load_pair("words", device=device),
        [problem.prompt for problem in told],
        seed=seed,
        n=N,
        max_new_tokens=WORDS_TOKENS,
    )
    found = []
    for problem, answer in zip(told, answers, strict=True):
        shown_story = story({"record": answer.record, "score": int(verify(problem, answer.text))})
        drafted = "".join(token.text for token in shown_story.first)
        if verify(problem, answer.text) and not verify(problem, drafted):
            found.append(str(shown_story))
    head = (
        f"In sentences: ∇-Reasoner on {asked} word problems of the pair `words`, where it made "
        f"{len(found)} wrong drafts right. Revised tokens are in ⟦brackets⟧."
    )
    return [head, *found[:shown]]


def sweep_of_rows(rows: Mapping[str, Mapping[str, Any]], **options: Any) -> SweepFile:
    """Return the demo as a sweep, each row in the folder that it has in `rows`."""
    from nabla_eval.runs.sweep_file import sweep_of

    source = {"name": "demo", "tasks": TASK, "variants": list(rows.values()), **options}
    read = sweep_of(Path("demo"), source)
    pairs = zip(read.cells, rows, strict=True)
    return replace(read, cells=tuple(replace(cell, folder=folder) for cell, folder in pairs))
