"""`nabla-eval train`, `python -m nabla_training`: the training-based rows, SFT and GRPO."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import click

from nabla_eval.cli.options import COUNT, FOLDER, Decorator, device, option, options, removed, trust
from nabla_eval.cli.screen import Screen
from nabla_eval.runs.quiet import quiet
from nabla_eval.signals import stoppable
from nabla_training.recipe import GRPO, SFT, Recipe

if TYPE_CHECKING:
    from nabla_training.data import DataFacts
    from nabla_training.folder import TrainRecord
    from nabla_training.run import Report

# What the screen shows of each method's figures: TRL's name, ours, decimals.
SHOWN = {"sft": ("loss", "loss", 3), "grpo": ("reward", "share right", 3)}


@click.group()
def train() -> None:
    """Train a policy: supervised (SFT) or on graded answers (GRPO), with TRL.

    A policy is a checkpoint for --model_args pretrained=OUTPUT,method=greedy.

    Example: nabla-eval train grpo --size 2000 --output results/grpo
    """


def _job_options() -> Decorator:
    """Return the options of `TrainJob`: model, data, folder, device."""
    return options(
        option("--policy", "Hub id or folder.  [default: the embedded policy]"),
        option(
            "--data",
            "JSON Lines file with problem and solution or answer; hub id; open-thoughts-10k, "
            "open-thoughts-10k-solutions, numinamath-35k; countdown, countdown4.",
            default="countdown",
        ),
        option("--size", "Problems to train on, chosen by the seed.", type=COUNT),
        option("--data-split", "Split of a hub data set.", default="train"),
        option(
            "--exclude",
            "File or hub id of problems that are evaluated, and not trained on. Repeatable.",
            multiple=True,
        ),
        option("--exclude-split", "Split of those on the hub.", default="test"),
        option("--output", "Folder for the checkpoint and its record.", required=True, type=FOLDER),
        option("--resume", "Go on from OUTPUT's newest checkpoint.", is_flag=True),
        option(
            "--verifier",
            "What is right.  [default: countdown for Countdown, else maths]",
            type=click.Choice(["maths", "countdown"]),
        ),
        option("--prompt", "How to ask, with {problem} in it.  [default: the verifier's]"),
        option("--chat/--no-chat", "Chat template.  [default: if there is one]", default=None),
        device(),
        option("--dtype", "Of the weights.  [default: float32; bfloat16 under LoRA on CUDA]"),
        trust(),
    )


def _recipe_options(recipe: type[Recipe]) -> Decorator:
    """Return an option for each field of a recipe."""
    made: list[Decorator] = []
    hints = get_type_hints(recipe)
    for field in fields(recipe):
        hint = hints[field.name]
        kind: Any = (*get_args(hint), hint)[0]  # of `int | None`, int
        if get_origin(hint) is Literal:
            kind = click.Choice(get_args(hint))
        text = field.metadata["help"].format(base_lr=recipe.base_lr)
        default = None if "[default" in text else field.default
        name = f"--{field.name.replace('_', '-')}"
        made.append(option(name, text, type=kind, is_flag=hint is bool, default=default))
    return options(*made)


@train.command()
@_job_options()
@_recipe_options(SFT)
def sft(**chosen: Any) -> None:
    """Fine-tune on solutions: cross-entropy of their tokens.

    Example: nabla-eval train sft --policy Qwen/Qwen2.5-7B --data open-thoughts-10k-solutions
    --exclude problems/math500.jsonl --lora --output results/sft
    """
    _train(SFT, chosen)


@train.command()
@_job_options()
@_recipe_options(GRPO)
def grpo(**chosen: Any) -> None:
    """Reinforce answers that are graded right, relative to others to the same problem.

    The reward is the evaluation's own grading; no reward model is involved.

    Example: nabla-eval train grpo --policy Qwen/Qwen2.5-7B --data numinamath-35k
    --exclude problems/math500.jsonl --lora --output results/grpo
    """
    from nabla_training.data import COUNTDOWN

    if chosen["max_new_tokens"] is None:
        chosen["max_new_tokens"] = 24 if chosen["data"] in COUNTDOWN else GRPO.max_new_tokens
    _train(GRPO, chosen)


def _train(kind: type[Recipe], chosen: dict[str, Any]) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports what is trained
    from nabla_eval.models.checkpoint import Trust
    from nabla_training.folder import LOG, kept
    from nabla_training.run import TrainJob, run

    recipe = kind(**{field.name: chosen.pop(field.name) for field in fields(kind)})
    trust = Trust(chosen.pop("trust_remote_code"), chosen.pop("allow_pickle"))
    job = TrainJob(recipe=recipe, trust=trust, **chosen)
    console = Screen()
    with (
        stoppable(lambda: kept(job.output)),
        quiet(job.output / LOG),
        progress_bar(console, recipe.method) as report,
    ):
        record = run(job, report, lambda facts: show_data(console, facts, job.exclude))
    show_result(console, record, job.output)


@contextmanager
def progress_bar(console: Screen, method: str) -> Iterator[Report]:
    """Show one bar over the optimiser steps, with the step's figure; gone when the run is over."""
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    name, label, decimals = SHOWN[method]
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    figure = TextColumn("{task.fields[figure]}", markup=False)
    with Progress(*columns, figure, console=console, transient=True) as progress:
        task = progress.add_task("reading data", total=None, figure="")

        def report(step: int, steps: int, figures: Mapping[str, float]) -> None:
            progress.update(task, description=method, total=steps, completed=step)
            if name in figures:
                progress.update(task, figure=f"{label} {figures[name]:.{decimals}f}")

        yield report


def show_data(console: Screen, facts: DataFacts, excluded: Sequence[str]) -> None:
    """Print what is trained on, and what was left out."""
    reasons = {
        "held out": facts["held_out"],
        "evaluated": facts["evaluated"],
        "duplicates": facts["duplicates"],
        "unusable": facts["unusable"],
        "too long": facts["too_long"],
    }
    left = ", ".join(f"{count:,} {why}" for why, count in reasons.items() if count)
    without = f" (left out: {left})" if left else ""
    console.print(
        f"{facts['problems']:,} problems of {facts['name']}, seed {facts['seed']}{without}"
    )
    if not excluded and facts["name"] not in ("countdown", "countdown4"):
        console.print(
            "No evaluation set was named with --exclude: its problems may be among these.",
            style="yellow",
        )


def show_result(console: Screen, record: TrainRecord, output: Path) -> None:
    """Print how it went, where things are, and how to evaluate them."""
    name, label, decimals = SHOWN[record["method"]]
    change = ""
    if name in record["first"] and name in record["last"]:
        first, last = (f"{record[part][name]:.{decimals}f}" for part in ("first", "last"))
        change = f": {label} {first} → {last} (first and last tenth)"
    minutes, place = record["seconds"] / 60, shlex.quote(str(output))
    lines = (
        f"{record['method'].upper()}, {record['steps']:,} steps in {minutes:.1f} min{change}",
        f"  {place}  the checkpoint, for --model_args pretrained={place},method=greedy",
        f"  {place}/training.json  options, data, every step",
    )
    console.print("\n".join(lines), soft_wrap=True)


train.add_command(
    removed(
        "train align-reward",
        "reward models with aligned gradients gained nothing that other training did not "
        "(reports/first_order). Train on preferences with TRL's RewardTrainer, and give the "
        "result as reward=FOLDER.",
    )
)

if __name__ == "__main__":
    train()
