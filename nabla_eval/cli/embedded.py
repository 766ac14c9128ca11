"""`nabla-eval embedded`: the pair that ships with the package, its card and its training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nabla_eval.terminal import say

if TYPE_CHECKING:
    from rich.progress import Progress

    from nabla_eval.embedded.alignment import Linearised
    from nabla_eval.embedded.policy import Start
    from nabla_eval.embedded.reward import Alignment, RewardRecipe, Where

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
    import json

    from rich.markdown import Markdown

    from nabla_eval.cli.screen import Screen
    from nabla_eval.embedded import WEIGHTS
    from nabla_eval.embedded.card import read_card, render_card

    content = read_card(folder or WEIGHTS)
    if as_json:
        say(json.dumps(content, indent=2))
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
@click.option("--also", type=FOLDER, multiple=True, metavar="FOLDER",
              help="Train the reward model on samples of this pair's policy too.")  # fmt: skip
@click.option("--rivals", type=click.IntRange(min=0), default=0, show_default=True,
              help="Other tokens that are scored and labelled too, per response and "
              "step: what prefix scores are worth among tokens depends on it.")  # fmt: skip
@click.option(
    "--alignment",
    type=click.Choice(["none", "gold", "self"]),
    default="none",
    show_default=True,
    help="Train the reward model's gradient too: towards the right tokens, or towards its own "
    "scores of other tokens.",
)
@click.option("--alignment-at", type=click.Choice(["errors", "doubts"]), default="errors",
              show_default=True,
              help="At first errors, or wherever the policy is unsure.")  # fmt: skip
@click.option("--alignment-weight", type=click.FloatRange(min=0, min_open=True), default=0.5,
              show_default=True, help="Of that term in the loss.")  # fmt: skip
@click.option("--alignment-beta", type=click.FloatRange(min=0), default=0.0, show_default=True,
              help="Align pi exp(beta G), and not the gradient's exp(G) alone.")  # fmt: skip
@click.option("--linearisation", type=click.Choice(["soft", "hard"]), default="soft",
              show_default=True,
              help="Gradient at the policy's mean embedding or its likeliest token's.")  # fmt: skip
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
    also: tuple[Path, ...],
    rivals: int,
    alignment: Alignment,
    alignment_at: Where,
    alignment_weight: float,
    alignment_beta: float,
    linearisation: Linearised,
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
    reward = RewardRecipe(
        seed=seed,
        numbers=numbers,
        rivals=rivals,
        alignment=alignment,
        alignment_at=alignment_at,
        alignment_weight=alignment_weight,
        alignment_beta=alignment_beta,
        linearisation=linearisation,
    )
    if minutes is not None:
        policy, reward = recipes_for(minutes, policy, reward)
    policy = _with_steps(policy, policy_steps)
    reward = _with_steps(reward, reward_steps)
    with _progress() as progress:
        content = train_pair(
            output,
            policy,
            reward,
            stage=_stages(progress),
            only=only,
            also=also,
            test_problems=problems,
        )
    if content is None:
        say(f"Wrote {output / 'policy'}. Go on with --reward-only.")
        return
    (output / README).write_text(render_card(content), encoding="utf-8")
    say(
        f"Wrote {output}/{{policy,reward}}, card.json and {README}. The same bytes again: "
        f"--seed {seed} --numbers {numbers} --policy-steps {policy.steps} --start {start} "
        f"--reward-steps {reward.steps}{_chosen(reward)}"
        + "".join(f" --also {folder}" for folder in also)
    )


@embedded.command()
@click.argument("folders", type=FOLDER, nargs=-1, required=True)
@click.option("--problems", type=click.IntRange(min=16), default=800, show_default=True,
              help="Validation problems, 8 responses each.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of the responses.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print every figure of every seed.")
def compare(folders: tuple[Path, ...], problems: int, seed: int, as_json: bool) -> None:
    """Measure the reward models of pairs with one policy: AUC, best of 8, and how often their
    scores and gradients rank a right token first at a first error.

    Example: nabla-eval embedded compare pair-none pair-gold pair-self
    """
    import json

    from transformers.utils import logging

    from nabla_eval.embedded.choosers import compare as measure
    from nabla_eval.embedded.choosers import summary
    from nabla_eval.embedded.policy import one_thread

    logging.disable_progress_bar()
    with one_thread():
        found = measure(folders, count=problems, seed=seed)
    rows = summary(found)
    if as_json:
        heading = {"problems": problems, "first_errors": len(found.clusters), "seed": seed}
        say(json.dumps({**heading, "figures": rows}, indent=1))
        return
    say(
        f"{len(folders)} reward models, {problems} validation problems, "
        f"{len(found.clusters)} first errors. Means over seeds; difference to alignment none, "
        "paired, ± standard error clustered by problem.\n"
    )
    say("| figure | alignment | seeds | mean | difference to none |\n| - | - | - | - | - |")
    for row in rows:
        gap = row["difference_to_none"]
        shown = "" if gap is None else f"{gap['value']:+.3f} ± {gap['standard_error']:.3f}"
        say(
            f"| {row['figure']} | {row['alignment']} | {len(row['by_seed'])} | "
            f"{'undefined' if row['mean'] is None else format(row['mean'], '.3f')} | {shown} |"
        )


def _chosen(recipe: RewardRecipe) -> str:
    """What the command must say again to train the same reward model."""
    names = ["rivals"]
    if recipe.alignment != "none":
        names += [
            "alignment",
            "alignment_at",
            "alignment_weight",
            "alignment_beta",
            "linearisation",
        ]
    said = ((name, getattr(recipe, name)) for name in names)
    options = ((n, f"{v:g}" if isinstance(v, float) else v) for n, v in said)
    return "".join(f" --{name.replace('_', '-')} {value}" for name, value in options)


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
