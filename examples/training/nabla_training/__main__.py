"""`nabla-eval train`: the training-based rows, SFT and GRPO."""

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
from nabla_training.recipe import GRPO, SFT, LoRA, Recipe

if TYPE_CHECKING:
    from nabla_training.data import DataFacts
    from nabla_training.folder import TrainRecord
    from nabla_training.run import Report

# What the screen shows of each method's figures: TRL's name, ours, decimals.
SHOWN = {"sft": ("loss", "loss", 3), "grpo": ("reward", "share right", 3)}
# The options of the recipes, each with the default of its field.
HELP = {
    "seed": "Of data, adapters, order and draws.",
    "epochs": "Passes over the data.",
    "steps": "Optimiser steps, in place of epochs.",
    "lr": "Learning rate.  [default: {base_lr:g}; tenfold with --lora]",
    "schedule": "Of the learning rate.",
    "warmup": "Share of the steps.",
    "weight_decay": "AdamW's.",
    "batch_size": "Problems per optimiser step and device.",
    "accumulate": "Parts a batch goes through in, to save memory.",
    "lora": "Train low-rank adapters, merged in the end.",
    "save_every": "Steps between checkpoints.",
    "keep": "Checkpoints that stay.",
    "max_length": "Tokens of problem and solution; longer examples are left out.",
    "generations": "Answers per problem.",
    "temperature": "Of their sampling.",
    "max_new_tokens": "Of an answer.  [default: {max_new_tokens}; 24 on Countdown]",
    "beta": "Weight of the divergence from the start.",
    "clip": "Epsilon of the clipped ratio.",
    "scale": "Standard deviation that advantages are divided by.",
    "loss": "How tokens are averaged.",
}


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


def _recipe_options(recipe: Recipe) -> Decorator:
    """Return an option for each field of a recipe."""
    made: list[Decorator] = []
    hints = get_type_hints(type(recipe))
    for name in (field.name for field in fields(recipe)):
        if name == "lora":
            made += [
                option("--lora", HELP[name], is_flag=True),
                option("--lora-rank", "Their rank.", default=LoRA().rank),
                option("--lora-alpha", "Their scale is alpha / rank.", default=LoRA().alpha),
            ]
            continue
        default, hint = getattr(recipe, name), hints[name]
        told = HELP[name].format(base_lr=recipe.base_lr, max_new_tokens=default)
        kind = (*get_args(hint), hint)[0]  # of `int | None`, int
        if get_origin(hint) is Literal:
            kind = click.Choice(get_args(hint))
        if name == "max_new_tokens":
            default = None  # it depends on the data
        made.append(option(f"--{name.replace('_', '-')}", told, type=kind, default=default))
    return options(*made)


@train.command()
@_job_options()
@_recipe_options(SFT())
def sft(**chosen: Any) -> None:
    """Fine-tune on solutions: cross-entropy of their tokens.

    Example: nabla-eval train sft --policy Qwen/Qwen2.5-7B --data open-thoughts-10k-solutions
    --exclude problems/math500.jsonl --lora --output results/sft
    """
    _train(SFT(**_taken(SFT, chosen)), chosen)


@train.command()
@_job_options()
@_recipe_options(GRPO())
def grpo(**chosen: Any) -> None:
    """Reinforce answers that are graded right, relative to others to the same problem.

    The reward is the evaluation's own grading; no reward model is involved.

    Example: nabla-eval train grpo --policy Qwen/Qwen2.5-7B --data numinamath-35k
    --exclude problems/math500.jsonl --lora --output results/grpo
    """
    from nabla_training.data import COUNTDOWN

    if chosen["max_new_tokens"] is None:
        short = chosen["data"] in COUNTDOWN
        chosen["max_new_tokens"] = 24 if short else GRPO().max_new_tokens
    _train(GRPO(**_taken(GRPO, chosen)), chosen)


def _taken(recipe: type[Recipe], chosen: dict[str, Any]) -> dict[str, Any]:
    """Take the options of a recipe out of the chosen ones."""
    adapters = LoRA(rank=chosen.pop("lora_rank"), alpha=chosen.pop("lora_alpha"))
    chosen["lora"] = adapters if chosen["lora"] else None
    return {field.name: chosen.pop(field.name) for field in fields(recipe)}


def _train(recipe: Recipe, chosen: dict[str, Any]) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports what is trained
    from nabla_eval.models.checkpoint import Trust
    from nabla_training.folder import LOG, kept
    from nabla_training.run import TrainJob, run

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
    """Show one bar over the optimiser steps, with a smoothed figure; gone when the run is over."""
    from rich import progress as rich_progress

    name, label, decimals = SHOWN[method]
    columns = (
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[figure]}", markup=False),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    smoothed: list[float] = []
    with rich_progress.Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading data", total=None, figure="")

        def report(step: int, steps: int, figures: Mapping[str, float]) -> None:
            if name in figures:
                before = smoothed[-1] if smoothed else figures[name]
                smoothed.append(0.9 * before + 0.1 * figures[name])
            figure = f"{label} {smoothed[-1]:.{decimals}f}" if smoothed else ""
            progress.update(task, description=method, total=steps, completed=step, figure=figure)

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
