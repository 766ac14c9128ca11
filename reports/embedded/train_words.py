"""Trains the words pair from scratch on one CPU thread, measures it and writes its model card.

    python reports/embedded/train_words.py --output my-words

About an hour; stopped at any time, the same command goes on from the last of its checkpoints. The
defaults are the recipe of the shipped pair. `MALLOC_MMAP_THRESHOLD_=2000000000
MALLOC_TRIM_THRESHOLD_=8000000000` in the environment saves a quarter of the time with glibc.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import click
import numpy as np
import torch
from card_figures import Bench, Floats, Numbers, auc, measure
from plain_sampling import Coding
from train import progress, timed, versions, write_card
from train_policy import one_thread
from words_policy import WordsRecipe, train_words_policy
from words_reward import (
    LONGEST,
    WordsRewardRecipe,
    coding_of,
    labels_of,
    pieces_of,
    train_words_reward,
)
from words_rows import trained_problems
from words_solutions import write
from words_tokenizer import build_tokenizer, save_tokenizer

from nabla_eval.embedded.card import README, render_card
from nabla_eval.embedded.words import (
    LARGEST,
    SPLIT_BUCKETS,
    STEPS,
    WordProblem,
    problems,
    split_of,
    verify,
)

TEST_PROBLEMS: Final = 200
# (figure, where it stands in `measured`, least, most): what the pair was made for.
WANTED: Final = (
    ("greedy accuracy", ("greedy_accuracy", "value"), 0.45, 0.65),
    ("pass@8", ("sampled", "T=1.0", "pass@8", "value"), 0.85, 1.0),
    (
        "reward AUC within a question",
        ("sampled", "T=1.0", "reward_auc", "within_question"),
        0.85,
        1,
    ),
    ("prefix AUC at the first error", ("sampled", "T=1.0", "prefix_auc", "first_error"), 0.85, 1.0),
    ("uncertain tokens", ("sampled", "T=1.0", "uncertain_tokens", "value"), 8, LONGEST),
    ("tokens of a response", ("response_tokens", "mean"), 60, 200),
)


def train_words(
    output: Path,
    policy_recipe: WordsRecipe,
    reward_recipe: WordsRewardRecipe,
    *,
    stage: Callable[[str, int], Callable[[int, float], None]],
    test_problems: int = TEST_PROBLEMS,
) -> dict[str, Any]:
    """Train, save and measure a pair under `output`; returns its card."""
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(policy_recipe.seed)
    with one_thread():
        policy, policy_facts = _kept(
            output / "policy",
            tokenizer,
            lambda: train_words_policy(
                policy_recipe, tokenizer, output, stage("policy", policy_recipe.stop)
            ),
        )
        reward, reward_facts = _kept(
            output / "reward",
            tokenizer,
            lambda: train_words_reward(
                policy, reward_recipe, tokenizer, output, stage("reward", reward_recipe.stop)
            ),
        )
        stage("measuring on test problems", 0)
        held_out = problems(test_problems, "test")
        measured = measure(policy, reward, held_out, bench_of(tokenizer))
    measured["response_tokens"] = response_lengths(held_out, tokenizer)
    own = policy_facts, reward_facts
    recipes = asdict(policy_recipe), asdict(reward_recipe)
    described = [
        {**_described(model), **facts, "recipe": recipe}
        for model, facts, recipe in zip((policy, reward), own, recipes, strict=True)
    ]
    content = {
        "task": {
            "name": "Word problems",
            "steps": list(STEPS),
            "results": [1, LARGEST],
            "split": f"hash(steps with their numbers, names and words left out) mod {SPLIT_BUCKETS}"
            ": 0 test, 1 validation, others train",
        },
        "policy": described[0],
        "reward": described[1],
        "disjointness": disjointness(policy_recipe, reward_recipe, test_problems),
        "measured": measured,
        "wanted": wanted(measured),
    }
    return write_card(output, content)


def _kept(
    folder: Path, tokenizer: Any, train: Callable[[], tuple[Any, dict[str, Any]]]
) -> tuple[Any, dict[str, Any]]:
    """Return the model of a folder and its facts; it is trained first where there is none.

    Weights are stored as bfloat16 and computed with as float32, by the config's dtype. What comes
    after (the reward model's data, the figures) is made with the weights that were stored.
    """
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    facts_file = folder.with_name(f"{folder.name}_training.json")
    if not facts_file.is_file():
        model, facts = timed(train)
        model.to(torch.bfloat16).save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = "float32"
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for path in folder.iterdir():  # safetensors writes files that only their owner can read
            path.chmod(0o644)
        facts_file.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    kinds = {"policy": AutoModelForCausalLM, "reward": AutoModelForTokenClassification}
    return kinds[folder.name].from_pretrained(folder, dtype=torch.float32).eval(), facts


def _described(model: Any) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"class": type(model).__name__, "parameters": parameters, "dtype": "bfloat16"}


# --- figures ------------------------------------------------------------------------------------


def bench_of(tokenizer: Any) -> Bench:
    """Return how word problems are measured."""
    pieces = pieces_of(tokenizer)

    def prefixes(
        questions: Sequence[WordProblem],
        responses: Sequence[list[int]],
        scores: Sequence[torch.Tensor],
    ) -> Numbers:
        return prefix_aucs(questions, responses, scores, pieces)

    coding: Coding = coding_of(tokenizer)
    return Bench(
        coding=coding,
        verify=verify,
        answer=lambda text: text.rpartition("boxed{")[2].partition("}")[0],
        prefixes=prefixes,
        temperatures=(1.0,),
    )


def prefix_aucs(
    questions: Sequence[WordProblem],
    responses: Sequence[list[int]],
    scores: Sequence[torch.Tensor],
    pieces: Sequence[str],
) -> Numbers:
    """AUC of prefix scores for "all of it is right", the closing token left out.

    `first_error`: the first wrong token of each response against every right token of the kind that
    can be wrong, a digit or an operator. `pooled`: all prefixes, so that a score that stays low
    after a mistake counts too.
    """
    first, calculated = [], []
    right: list[float] = []
    wrong: list[float] = []
    for question, response, row in zip(questions, responses, scores, strict=True):
        labels = labels_of(question, response, pieces)[:-1]
        values = row.tolist()[: len(labels)]
        start = labels.index(False) if False in labels else len(labels)
        right += values[:start]
        wrong += values[start:]
        first += values[start : start + 1]
        calculated += [
            value
            for value, token in zip(values[:start], response, strict=False)
            if pieces[token].strip() in (*"0123456789", *"+-×÷")
        ]
    as_floats: list[Floats] = [np.array(part) for part in (right, wrong, calculated, first)]
    return {"pooled": auc(*as_floats[:2]), "first_error": auc(*as_floats[2:])}


def response_lengths(held_out: Sequence[WordProblem], tokenizer: Any) -> dict[str, float]:
    """Return mean and 5th and 95th percentile of the tokens of worked solutions."""
    rng = random.Random(0)
    lengths = [len(tokenizer(write(p, rng))["input_ids"]) + 1 for p in held_out]
    low, high = np.percentile(lengths, [5, 95])
    return {"mean": float(np.mean(lengths)), "low": float(low), "high": float(high)}


def wanted(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each wanted figure with what was measured, and whether it was met."""
    found = []
    for name, path, least, most in WANTED:
        value: Any = measured
        for key in path:
            value = value[key]
        met = value is not None and least <= value <= most
        found.append({"figure": name, "least": least, "most": most, "measured": value, "met": met})
    return found


def disjointness(
    policy_recipe: WordsRecipe, reward_recipe: WordsRewardRecipe, count: int
) -> dict[str, Any]:
    """Regenerate every training problem and count those among the test problems: 0 is right."""
    held_out = problems(count, "test")
    test = {problem.canonical for problem in held_out}
    shown = trained_problems(policy_recipe)
    told = problems(reward_recipe.told, "train", seed=reward_recipe.seed + 1)
    graded = {problem.canonical for problem in told}
    return {
        "test_problems": len(test),
        "all_in_test_split": all(split_of(problem) == "test" for problem in held_out),
        "policy_training_problems": len(shown),
        "shared_with_policy_training": len(test & shown),
        "reward_training_problems": len(graded),
        "shared_with_reward_training": len(test & graded),
    }


@click.command()
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--policy-steps", type=click.IntRange(min=1), help="Optimiser steps of the policy.")
@click.option("--reward-steps", type=click.IntRange(min=1), help="... of the reward model.")
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
    policy_steps: int | None,
    reward_steps: int | None,
    test_problems: int,
) -> None:
    """Train the words pair, or go on with it, measure it and write its model card."""
    policy, reward = WordsRecipe(seed=seed), WordsRewardRecipe(seed=seed)
    policy = replace(policy, stop=policy_steps or policy.stop)
    reward = replace(reward, rounds=(reward_steps,) if reward_steps else reward.rounds)
    with progress() as bars:
        card = train_words(output, policy, reward, stage=bars, test_problems=test_problems)
    (output / README).write_text(render_card(card), encoding="utf-8")
    print(f"Wrote {output}/{{policy,reward}}, card.json and {README}.")
    print(f"Made with {', '.join(f'{name} {number}' for name, number in versions().items())}.")


if __name__ == "__main__":
    main()
