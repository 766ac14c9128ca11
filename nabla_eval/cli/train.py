"""`nabla-eval train`: the training-based rows, SFT and GRPO."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nabla_eval.cli.removed import removed
from nabla_eval.cli.train_view import progress_bar, show_data, show_result, show_unchecked
from nabla_eval.runs.quiet import quiet
from nabla_eval.signals import stoppable
from nabla_eval.training.recipe import GRPO, SFT, LoRA, Recipe

if TYPE_CHECKING:
    from nabla_eval.cli.screen import Screen
    from nabla_eval.training.data import DataFacts
    from nabla_eval.training.run import Report

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def train() -> None:
    """Train a policy: supervised (SFT) or on graded answers (GRPO), with TRL.

    A policy is a checkpoint for --model_args pretrained=OUTPUT,method=greedy.

    Example: nabla-eval train grpo --size 2000 --output results/grpo
    """


def _option(name: str, help: str, **settings: Any) -> Callable[[F], F]:
    if "default" in settings or settings.get("multiple") or settings.get("required"):
        settings.setdefault("show_default", "default" in settings)
    return click.option(name, help=help, **settings)


OUTCOME = (
    _option(
        "--output",
        "Folder for the checkpoint and its record.",
        required=True,
        type=click.Path(file_okay=False, path_type=Path),
    ),
    _option("--resume", "Go on from OUTPUT's newest checkpoint.", is_flag=True),
)
PLACE = (
    _option("--device", "cpu, cuda, cuda:1, ...  [default: CUDA if there is]"),
    _option("--dtype", "Of the weights.  [default: float32; bfloat16 under LoRA on CUDA]"),
    _option("--trust-remote-code", "Run code that comes with a checkpoint.", is_flag=True),
    _option("--allow-pickle", "Take weights that are not safetensors.", is_flag=True),
)
WHAT = (
    _option("--policy", "Hub id or folder.  [default: the embedded policy]"),
    _option(
        "--data",
        "JSON Lines file with problem and solution or answer; hub id; open-thoughts-10k, "
        "open-thoughts-10k-solutions, numinamath-35k; countdown, countdown4.",
        default="countdown",
    ),
    _option("--size", "Problems to train on, chosen by the seed.", type=click.IntRange(min=1)),
    _option("--data-split", "Split of a hub data set.", default="train"),
    _option(
        "--exclude",
        "File or hub id of problems that are evaluated, and not trained on. Repeatable.",
        multiple=True,
    ),
    _option("--exclude-split", "Split of those on the hub.", default="test"),
    *OUTCOME,
    _option(
        "--verifier",
        "What is right.  [default: countdown for Countdown, else maths]",
        type=click.Choice(["maths", "countdown"]),
    ),
    _option("--prompt", "How to ask, with {problem} in it.  [default: the verifier's]"),
    _option("--chat/--no-chat", "Chat template.  [default: if there is one]", default=None,
            show_default=False),
    *PLACE,
)  # fmt: skip


def _recipe_options(recipe: Recipe) -> tuple[Callable[[F], F], ...]:
    """Options of every recipe, with this one's defaults."""
    return (
        _option("--seed", "Of data, adapters, order and draws.", default=recipe.seed, type=int),
        _option("--epochs", "Passes over the data.", default=recipe.epochs),
        _option("--steps", "Optimiser steps, in place of epochs.", type=int),
        _option(
            "--lr", f"Learning rate.  [default: {recipe.base_lr:g}; tenfold with --lora]",
            type=float,
        ),
        _option("--schedule", "Of the learning rate.", default=recipe.schedule,
                type=click.Choice(["linear", "cosine", "constant"])),
        _option("--warmup", "Share of the steps.", default=recipe.warmup),
        _option("--weight-decay", "AdamW's.", default=recipe.weight_decay),
        _option("--batch-size", "Problems per optimiser step and device.",
                default=recipe.batch_size),
        _option("--accumulate", "Parts a batch goes through in, to save memory.",
                default=recipe.accumulate),
        _option("--lora", "Train low-rank adapters, merged in the end.", is_flag=True),
        _option("--lora-rank", "Their rank.", default=LoRA().rank),
        _option("--lora-alpha", "Their scale is alpha / rank.", default=LoRA().alpha),
        _option("--save-every", "Steps between checkpoints.", default=recipe.save_every),
        _option("--keep", "Checkpoints that stay.", default=recipe.keep),
    )  # fmt: skip


def _with(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@train.command()
@_with(
    *WHAT,
    *_recipe_options(SFT()),
    _option(
        "--max-length",
        "Tokens of problem and solution; longer examples are left out.",
        default=SFT().max_length,
    ),
)
def sft(**chosen: Any) -> None:
    """Fine-tune on solutions: cross-entropy of their tokens.

    Example: nabla-eval train sft --policy Qwen/Qwen2.5-7B --data open-thoughts-10k-solutions
    --exclude problems/math500.jsonl --lora --output results/sft
    """
    _train(SFT(max_length=chosen.pop("max_length"), **_recipe(chosen)), chosen)


@train.command()
@_with(
    *WHAT,
    *_recipe_options(GRPO()),
    _option("--generations", "Answers per problem.", default=GRPO().generations),
    _option("--temperature", "Of their sampling.", default=GRPO().temperature),
    _option(
        "--max-new-tokens",
        f"Of an answer.  [default: {GRPO().max_new_tokens}; 24 on Countdown]",
        type=int,
    ),
    _option("--beta", "Weight of the divergence from the start.", default=GRPO().beta),
    _option("--clip", "Epsilon of the clipped ratio.", default=GRPO().clip),
    _option(
        "--scale",
        "Standard deviation that advantages are divided by.",
        default=GRPO().scale,
        type=click.Choice(["group", "batch", "none"]),
    ),
    _option(
        "--loss",
        "How tokens are averaged.",
        default=GRPO().loss,
        type=click.Choice(["grpo", "dapo", "dr_grpo", "bnpo"]),
    ),
)
def grpo(**chosen: Any) -> None:
    """Reinforce answers that are graded right, relative to others to the same problem.

    The reward is the evaluation's own grading; no reward model is involved.

    Example: nabla-eval train grpo --policy Qwen/Qwen2.5-7B --data numinamath-35k
    --exclude problems/math500.jsonl --lora --output results/grpo
    """
    from nabla_eval.training.data import COUNTDOWN

    tokens = chosen.pop("max_new_tokens")
    if tokens is None:
        tokens = 24 if chosen["data"] in COUNTDOWN else GRPO().max_new_tokens
    names = ("generations", "temperature", "beta", "clip", "scale", "loss")
    own = {name: chosen.pop(name) for name in names}
    _train(GRPO(max_new_tokens=tokens, **own, **_recipe(chosen)), chosen)


def _recipe(chosen: dict[str, Any]) -> dict[str, Any]:
    """Take the options of a recipe out of the chosen ones."""
    rank, alpha = chosen.pop("lora_rank"), chosen.pop("lora_alpha")
    lora = LoRA(rank=rank, alpha=alpha) if chosen.pop("lora") else None
    names = [field.name for field in fields(Recipe) if field.name != "lora"]
    return {"lora": lora, **{name: chosen.pop(name) for name in names}}


def _train(recipe: Recipe, chosen: dict[str, Any]) -> None:
    from nabla_eval.models.checkpoint import Trust
    from nabla_eval.training.run import TrainJob, run

    trust = Trust(chosen.pop("trust_remote_code"), chosen.pop("allow_pickle"))
    job = TrainJob(recipe=recipe, trust=trust, **chosen)
    with _screen(job.output, recipe.method) as (console, report):

        def selected(facts: DataFacts) -> None:
            show_data(console, facts)
            if not job.exclude:
                show_unchecked(console, facts)

        record = run(job, report, selected)
    show_result(console, record, job.output)


@contextmanager
def _screen(output: Path, method: str) -> Iterator[tuple[Screen, Report]]:
    """The console and the progress of a run whose libraries write to a file."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # on few cores, waiting threads must yield
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL reports what is trained
    from nabla_eval.cli.screen import Screen
    from nabla_eval.training.folder import LOG, kept

    console = Screen()
    with (
        stoppable(lambda: kept(output)),
        quiet(output / LOG),
        progress_bar(console, method) as report,
    ):
        yield console, report


train.add_command(
    removed(
        "train align-reward",
        "reward models with aligned gradients gained nothing that other training did not "
        "(reports/first_order). Train on preferences with TRL's RewardTrainer, and give the "
        "result as reward=FOLDER.",
    )
)
