"""`nabla-eval embedded`: the pair that ships with the package, its card and its training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nabla_eval.cli.removed import removed, removed_options
from nabla_eval.stopping import stoppable
from nabla_eval.terminal import say

if TYPE_CHECKING:
    from rich.progress import Progress

    from nabla_eval.embedded.policy import Start

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def embedded() -> None:
    """The tiny Countdown policy and reward model that ship with nabla_eval.

    Example: nabla-eval embedded card
    """


@embedded.command()
@click.argument("folder", type=FOLDER, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print card.json itself.")
def card(folder: Path | None, as_json: bool) -> None:
    """Print the model card of the shipped pair, or of the pair in FOLDER.

    Example: nabla-eval embedded card
    """
    from rich.markdown import Markdown

    from nabla_eval.cli.screen import Screen
    from nabla_eval.embedded import WEIGHTS
    from nabla_eval.embedded.card import read_card, render_card
    from nabla_eval.reporting.tables import json_text

    content = read_card(folder or WEIGHTS)
    if as_json:
        say(json_text(content), end="")
    else:
        Screen().print(Markdown(render_card(content), hyperlinks=False))


@embedded.command()
@click.argument("folder", type=FOLDER, required=False)
def verify(folder: Path | None) -> None:
    """Check every byte of the shipped pair, or of the pair in FOLDER, against its card.

    Example: nabla-eval embedded verify
    """
    from nabla_eval.embedded import WEIGHTS
    from nabla_eval.embedded.card import read_card, verify_files
    from nabla_eval.errors import DataError

    folder = folder or WEIGHTS
    differences = verify_files(folder)
    if differences:
        raise DataError(
            f"{folder} is not the pair that its card describes: {'; '.join(differences)}. "
            "Install the package again, or train a pair with `nabla-eval embedded train`."
        )
    files = read_card(folder)["files"]
    size = sum(entry["bytes"] for entry in files.values())
    say(f"{folder}: {len(files)} files, {size:,} bytes, all as the card says.")


@embedded.command()
@click.option("--output", type=FOLDER, required=True, help="Folder for policy/, reward/ and card.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of problems, initial weights and batches.")  # fmt: skip
@click.option(
    "--numbers", type=click.IntRange(3, 4), default=3, show_default=True, help="4 is harder."
)
@click.option(
    "--minutes", type=click.FloatRange(min=0.1), help="Choose the steps to take this long."
)
@click.option("--policy-steps", type=click.IntRange(min=1), help="Optimiser steps of the policy.")
@click.option("--start", type=click.Choice(["random", "shipped"]), default="random",
              show_default=True, help="Of the policy's weights; the shipped ones know how to "
              "calculate, which is what four numbers take longest to learn.")  # fmt: skip
@click.option("--reward-steps", type=click.IntRange(min=1), help="... of the reward model.")
@removed_options(
    (
        "--rivals",
        "--also",
        "--alignment",
        "--alignment-at",
        "--alignment-weight",
        "--alignment-beta",
        "--linearisation",
    ),
    "reward models that were trained on more tokens or on their gradients verified no better "
    "(reports/first_order).",
)
@click.option("--policy-only", "only", flag_value="policy", help="Stop after the policy; no card.")
@click.option("--reward-only", "only", flag_value="reward", help="Start from OUTPUT/policy.")
@click.option(
    "--problems",
    type=click.IntRange(min=16),
    default=1600,
    show_default=True,
    help="Test problems that the card is measured on.",
)
def train(
    output: Path,
    seed: int,
    numbers: int,
    minutes: float | None,
    policy_steps: int | None,
    start: Start,
    reward_steps: int | None,
    only: str | None,
    problems: int,
) -> None:
    """Train a pair from scratch on one CPU thread, measure it and write its model card.

    The defaults are the recipe of the shipped pair: same seed and library versions, same bytes.

    Example: nabla-eval embedded train --output my-pair --minutes 4
    """
    import os

    # Idle OpenMP threads that spin can slow a tiny model down thirtyfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    from transformers.utils import logging

    from nabla_eval.embedded.card import README, render_card
    from nabla_eval.embedded.policy import PolicyRecipe
    from nabla_eval.embedded.reward import RewardRecipe
    from nabla_eval.embedded.train import recipes_for, train_pair

    if minutes is not None and (policy_steps or reward_steps):
        raise click.UsageError(
            "--minutes chooses the steps; leave out --policy-steps and the like."
        )
    logging.disable_progress_bar()
    policy = PolicyRecipe(seed=seed, numbers=numbers, start=start)
    reward = RewardRecipe(seed=seed, numbers=numbers)
    if minutes is not None:
        policy, reward = recipes_for(minutes, policy, reward)
    policy = _with_steps(policy, policy_steps)
    reward = _with_steps(reward, reward_steps)
    kept = f"models that were ready are in {output}; --reward-only goes on from a policy there."
    with stoppable(lambda: kept), _progress() as progress:
        content = train_pair(
            output,
            policy,
            reward,
            stage=_stages(progress),
            only=only,
            test_problems=problems,
        )
    if content is None:
        say(f"Wrote {output / 'policy'}. Go on with --reward-only.")
        return
    (output / README).write_text(render_card(content), encoding="utf-8")
    say(
        f"Wrote {output}/{{policy,reward}}, card.json and {README}. The same bytes again: "
        f"--seed {seed} --numbers {numbers} --policy-steps {policy.steps} --start {start} "
        f"--reward-steps {reward.steps}"
    )


embedded.add_command(
    removed(
        "embedded compare",
        "it measured reward models with aligned gradients, which are no more. `nabla-eval embedded "
        "card FOLDER` shows what each pair measures.",
    )
)


def _with_steps(recipe: Any, steps: int | None) -> Any:
    from dataclasses import replace

    return recipe if steps is None else replace(recipe, steps=steps)


def _progress() -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from nabla_eval.cli.screen import Screen

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Screen(),
    )


def _stages(progress: Progress) -> Callable[[str, int], Callable[[int, float], None]]:
    """One progress bar per stage; a stage of 0 steps shows only that it runs."""

    def stage(title: str, steps: int) -> Callable[[int, float], None]:
        task = progress.add_task(title, total=steps or None, loss="-")
        smoothed: list[float] = []

        def report(step: int, loss: float) -> None:
            previous = smoothed[-1] if smoothed else loss
            smoothed.append(0.95 * previous + 0.05 * loss)
            progress.update(task, completed=step, loss=f"{smoothed[-1]:.3f}")

        return report

    return stage
