"""Trains the embedded pair from scratch on one CPU thread, measures it and writes its model card.

    python reports/embedded/train.py --output my-pair --minutes 4

The defaults are the recipe of the shipped pair: with the library versions of its card, the same
bytes (`nabla-eval embedded verify` compares a folder with its card).
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

# Idle OpenMP threads that spin can slow a tiny model down thirtyfold; torch reads this once.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import click
import numpy as np
import torch
from card_figures import NUMBERS, measure
from pair_tokenizer import EOS_ID, PAD_ID, save_tokenizer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from train_policy import PolicyRecipe, Start, one_thread, train_policy
from train_reward import RewardRecipe, train_reward
from training_rows import TrainingRows

from nabla_eval.embedded.card import CARD, README, SCHEMA, file_hashes, read_card, render_card
from nabla_eval.embedded.countdown import (
    MAX_VALUE,
    MIN_TARGET,
    SPLIT_BUCKETS,
    largest_input,
    problems,
    split_of,
)
from nabla_eval.errors import ConfigError
from nabla_eval.validation import text_of

Stage = Callable[[str, int], Callable[[int, float], None]]  # (title, steps) -> report(step, loss)

TEST_PROBLEMS: Final = 1600
FACTS: Final = "policy_training.json"  # lets --reward-only write a whole card later
_DESCRIBED: Final = ("class", "parameters", "dtype")  # what a card says of a model by itself
_POLICY_SHARE: Final = 2 / 3  # of --minutes


def train_pair(
    output: Path,
    policy_recipe: PolicyRecipe,
    reward_recipe: RewardRecipe,
    *,
    stage: Stage,
    only: str | None = None,
    test_problems: int = TEST_PROBLEMS,
) -> dict[str, Any] | None:
    """Train, save and measure a pair under `output`; returns its card.

    `only` is "policy" or "reward": the first stops early (and returns None), the second reads
    output/policy. One thread throughout: the weights are a function of recipe and versions.
    """
    with one_thread():
        if only == "reward":
            policy, policy_facts = _load_policy(output)
        else:
            report = stage("policy", policy_recipe.steps)
            policy, policy_facts = timed(lambda: train_policy(policy_recipe, report))
            policy_facts["recipe"] = asdict(policy_recipe)
            save(policy, output / "policy")
            (output / FACTS).write_text(json.dumps(policy_facts, indent=2) + "\n")
        if only == "policy":
            return None
        report = stage("reward model", reward_recipe.steps)
        reward, reward_facts = timed(lambda: train_reward(policy, reward_recipe, report))
        reward_facts["recipe"] = asdict(reward_recipe)
        save(reward, output / "reward")
        stage("measuring on test problems", 0)
        held_out = problems(test_problems, "test", numbers=reward_recipe.numbers)
        measured = measure(policy, reward, held_out, NUMBERS)
    return write_card(
        output,
        {
            "task": _task(reward_recipe.numbers),
            "policy": _described(policy, policy_facts),
            "reward": _described(reward, reward_facts),
            "disjointness": disjointness(policy_recipe, reward_recipe, test_problems),
            "measured": measured,
        },
    )


def write_card(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Add schema, versions and file hashes to the content, write card.json, return the card."""
    card = {"schema": SCHEMA, **content, "versions": versions(), "files": file_hashes(folder)}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return read_card(folder)


def versions() -> dict[str, str]:
    """Return what the weights' exact bits depend on besides the recipe."""
    names = ("torch", "transformers", "tokenizers", "numpy", "safetensors")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def save(model: Any, folder: Path) -> None:
    """Write a checkpoint with its tokenizer: float32 safetensors and JSON."""
    from transformers import GenerationConfig

    if model.can_generate():
        model.generation_config = GenerationConfig(eos_token_id=EOS_ID, pad_token_id=PAD_ID)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    for path in folder.iterdir():  # safetensors writes files that only their owner can read
        path.chmod(0o644)


def _load_policy(output: Path) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    folder = output / "policy"
    known = [path for path in (output / FACTS, output / CARD) if path.is_file()]
    if not (folder / "config.json").is_file() or not known:
        raise ConfigError(
            f"No policy at {folder}. Train it first (--policy-only), or leave out --reward-only."
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        facts: dict[str, Any] = json.loads(text_of(known[0]))
        if known[0].name == CARD:  # a copy of a finished pair, such as the shipped one
            facts = {k: v for k, v in facts["policy"].items() if k not in _DESCRIBED}
    except Exception as error:  # whatever the readers of its files make of foreign bytes
        raise ConfigError(
            f"The policy at {folder} cannot be read: {type(error).__name__}: {error}. Train it "
            "again (--policy-only)."
        ) from error
    return model, facts


def timed(train: Callable[[], tuple[Any, dict[str, Any]]]) -> tuple[Any, dict[str, Any]]:
    start = time.perf_counter()
    model, facts = train()
    losses = facts.pop("losses")
    facts["training_minutes"] = round((time.perf_counter() - start) / 60, 1)
    facts["loss"] = {"first": losses[0], "last_50_mean": float(np.mean(losses[-50:]))}
    return model, facts


def _described(model: Any, facts: dict[str, Any]) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    own = dict(zip(_DESCRIBED, (type(model).__name__, parameters, "float32"), strict=True))
    return {**own, **facts}


def _task(numbers: int) -> dict[str, Any]:
    return {
        "name": "Countdown",
        "numbers": numbers,
        "inputs": [1, largest_input(numbers)],
        "results": [1, MAX_VALUE],
        "targets": [MIN_TARGET, MAX_VALUE],
        "split": f"hash(sorted numbers, target) mod {SPLIT_BUCKETS}: "
        "0 test, 1 validation, others train",
    }


def disjointness(
    policy_recipe: PolicyRecipe, reward_recipe: RewardRecipe, count: int
) -> dict[str, Any]:
    """Regenerate every training problem and count those among the test problems: 0 is right."""
    numbers = policy_recipe.numbers
    held_out = problems(count, "test", numbers=numbers)
    test = {problem.canonical for problem in held_out}
    rows = TrainingRows(
        walks=policy_recipe.walks,
        numbers=numbers,
        mismatched=policy_recipe.mismatched,
        rng=np.random.default_rng([policy_recipe.seed, numbers]),
    )
    policy_problems = rows.canonical_problems()
    graded = problems(reward_recipe.questions, "train", numbers=numbers, seed=reward_recipe.seed)
    reward_problems = {problem.canonical for problem in graded}
    return {
        "test_problems": len(test),
        "all_in_test_split": all(split_of(problem) == "test" for problem in held_out),
        "policy_training_problems": len(policy_problems),
        "shared_with_policy_training": len(test & policy_problems),
        "reward_training_problems": len(reward_problems),
        "shared_with_reward_training": len(test & reward_problems),
    }


def recipes_for(
    minutes: float, policy_recipe: PolicyRecipe, reward_recipe: RewardRecipe
) -> tuple[PolicyRecipe, RewardRecipe]:
    """Step counts that fit a time budget, by timing a few updates on this machine.

    The learning-rate schedule depends on the step count, so a run is reproduced by the counts that
    this returns, not by its minutes.
    """
    with one_thread():
        trial = replace(policy_recipe, steps=1, walks=100_000)
        train_policy(trial)
        begin = time.perf_counter()
        train_policy(trial)
        overhead = time.perf_counter() - begin
        begin = time.perf_counter()
        train_policy(replace(trial, steps=11))
        step = max((time.perf_counter() - begin - overhead) / 10, 1e-3)
    seconds = 60 * minutes
    policy_steps = max(50, int(seconds * _POLICY_SHARE / step))
    reward_steps = max(50, int(seconds * (1 - _POLICY_SHARE) / 1.5 / step))
    return replace(policy_recipe, steps=policy_steps), replace(
        reward_recipe, steps=reward_steps, questions=min(reward_recipe.questions, 12 * reward_steps)
    )


# --- the command --------------------------------------------------------------------------------


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for policy/, reward/ and card.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of problems, initial weights and batches.",
)
@click.option(
    "--numbers", type=click.IntRange(3, 4), default=3, show_default=True, help="4 is harder."
)
@click.option(
    "--minutes", type=click.FloatRange(min=0.1), help="Choose the steps to take this long."
)
@click.option("--policy-steps", type=click.IntRange(min=1), help="Optimiser steps of the policy.")
@click.option("--reward-steps", type=click.IntRange(min=1), help="... of the reward model.")
@click.option(
    "--start",
    type=click.Choice(["random", "shipped"]),
    default="random",
    show_default=True,
    help="Of the policy's weights; the shipped ones know how to "
    "calculate, which is what four numbers take longest to learn.",
)
@click.option("--policy-only", "only", flag_value="policy", help="Stop after the policy; no card.")
@click.option("--reward-only", "only", flag_value="reward", help="Start from OUTPUT/policy.")
@click.option(
    "--problems",
    "test_problems",
    type=click.IntRange(min=16),
    default=TEST_PROBLEMS,
    show_default=True,
    help="Test problems that the card is measured on.",
)
def main(
    output: Path,
    seed: int,
    numbers: int,
    minutes: float | None,
    policy_steps: int | None,
    reward_steps: int | None,
    start: Start,
    only: str | None,
    test_problems: int,
) -> None:
    """Train a pair from scratch on one CPU thread, measure it and write its model card."""
    from transformers.utils import logging

    if minutes is not None and (policy_steps or reward_steps):
        raise click.UsageError(
            "--minutes chooses the steps; leave out --policy-steps and --reward-steps."
        )
    logging.disable_progress_bar()
    policy = PolicyRecipe(seed=seed, numbers=numbers, start=start)
    reward = RewardRecipe(seed=seed, numbers=numbers)
    if minutes is not None:
        policy, reward = recipes_for(minutes, policy, reward)
    policy = replace(policy, steps=policy_steps or policy.steps)
    reward = replace(reward, steps=reward_steps or reward.steps)
    try:
        with progress() as bars:
            card = train_pair(
                output, policy, reward, stage=bars, only=only, test_problems=test_problems
            )
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    if card is None:
        print(f"Wrote {output / 'policy'}. Go on with --reward-only.")
        return
    (output / README).write_text(render_card(card), encoding="utf-8")
    print(
        f"Wrote {output}/{{policy,reward}}, card.json and {README}. The same bytes again: "
        f"--seed {seed} --numbers {numbers} --policy-steps {policy.steps} --start {start} "
        f"--reward-steps {reward.steps}"
    )


@contextmanager
def progress() -> Iterator[Stage]:
    """One progress bar per stage; a stage of 0 steps shows only that it runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bars:

        def stage(title: str, steps: int) -> Callable[[int, float], None]:
            task = bars.add_task(title, total=steps or None, loss="-")
            return lambda step, loss: bars.update(task, completed=step, loss=f"{loss:.3f}")

        yield stage


if __name__ == "__main__":
    main()
