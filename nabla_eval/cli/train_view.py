"""The output of `nabla-eval train`: a bar, the data that were chosen, and how it went."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nabla_eval.cli.screen import Screen
    from nabla_eval.training.data import DataFacts
    from nabla_eval.training.folder import TrainRecord
    from nabla_eval.training.run import Report

# What the screen shows of each method's figures: TRL's name, ours, decimals.
SHOWN = {
    "sft": ("loss", "loss", 3),
    "grpo": ("reward", "share right", 3),
}


@contextmanager
def progress_bar(console: Screen, method: str) -> Iterator[Report]:
    """One bar over the optimiser steps, with a smoothed figure; gone when the run is over."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    name, label, decimals = SHOWN[method]
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figure]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    smoothed: list[float] = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading data", total=None, figure="")

        def report(step: int, steps: int, figures: Mapping[str, float]) -> None:
            if name in figures:
                before = smoothed[-1] if smoothed else figures[name]
                smoothed.append(0.9 * before + 0.1 * figures[name])
            figure = f"{label} {smoothed[-1]:.{decimals}f}" if smoothed else ""
            progress.update(task, description=method, total=steps, completed=step, figure=figure)

        yield report


def show_data(console: Screen, facts: DataFacts) -> None:
    """Return what is trained on, and what was left out."""
    from rich.text import Text

    reasons = {
        "held_out": "held out", "evaluated": "evaluated", "duplicates": "duplicates",
        "unusable": "unusable", "too_long": "too long",
    }  # fmt: skip
    left = [f"{facts[name]:,} {word}" for name, word in reasons.items() if facts[name]]  # type: ignore[literal-required]
    without = f" (left out: {', '.join(left)})" if left else ""
    console.print(
        Text(f"{facts['problems']:,} problems of {facts['name']}, seed {facts['seed']}{without}")
    )


def show_unchecked(console: Screen, facts: DataFacts) -> None:
    """That no evaluation set was named, where the data may hold its problems."""
    if facts["name"] not in ("countdown", "countdown4"):
        console.print(
            "No evaluation set was named with --exclude: its problems may be among these.",
            style="yellow",
        )


def show_result(console: Screen, record: TrainRecord, output: Path) -> None:
    """How it went, where things are, and how to evaluate them."""
    from rich.text import Text

    name, label, decimals = SHOWN[record["method"]]
    first, last = record["first"].get(name), record["last"].get(name)
    change = "" if first is None or last is None else (
        f": {label} {first:.{decimals}f} → {last:.{decimals}f} (first and last tenth)"
    )  # fmt: skip
    minutes = record["seconds"] / 60
    place = shlex.quote(str(output))
    lines = (
        f"{record['method'].upper()}, {record['steps']:,} steps in {minutes:.1f} min{change}",
        f"  {place}  the checkpoint, for --model_args pretrained={place},method=greedy",
        f"  {place}/training.json  options, data, every step",
    )
    for line in lines:
        console.print(Text(line), soft_wrap=True)
