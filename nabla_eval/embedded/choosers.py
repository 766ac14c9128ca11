"""What a reward model's scores and gradients know of the right token, on validation problems.

At the first wrong token of a response the exact search knows which tokens would have been right.
A chooser ranks all tokens there, by the policy, the linearised prefix score G (DESIGN 3.8), the
exact one, or their sums with log pi; it is right where it ranks a right token first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nabla_eval.embedded.alignment import LEAST, linearised, swapped_scores
from nabla_eval.embedded.card import read_card
from nabla_eval.embedded.countdown import Problem, problems
from nabla_eval.embedded.measure import DRAWS, Floats, Numbers, describe
from nabla_eval.embedded.places import Places, find_errors
from nabla_eval.embedded.sampling import sample
from nabla_eval.embedded.tokenizer import EOS_ID, TOKENS
from nabla_eval.errors import ConfigError

BETA: Final = 3.0  # of log pi + beta * score, as in DESIGN 3.8
TEMPERATURE: Final = 0.7
_ROWS = 128

CHOOSERS: Final = (
    "policy", "hard", "soft", "exact", "policy+hard", "policy+soft", "policy+exact",
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """The policy's validation responses and their first errors: the same for every reward model."""

    questions: list[Problem]
    responses: list[list[int]]  # DRAWS per question, one question after the other
    errors: Places  # one per different prefix of a question
    clusters: NDArray[np.int64]  # [errors] index of the question


@dataclass(frozen=True)
class Measured:
    """One reward model on `Drawn`."""

    name: str
    alignment: str
    seed: int
    numbers: Numbers  # as the model card's block of one temperature
    right_first: dict[str, Floats]  # chooser -> [errors] 1 where a right token is ranked first


@dataclass(frozen=True)
class Comparison:
    """Several reward models on the same responses."""

    models: list[Measured]
    clusters: NDArray[np.int64]  # [errors] index of the question
    problems: int


def draw(policy: Any, *, numbers: int, count: int, seed: int = 0) -> Drawn:
    """Sample the policy on the first `count` validation problems and find the first errors."""
    questions = problems(count, "validation", numbers=numbers)
    repeated = [question for question in questions for _ in range(DRAWS)]
    generator = torch.Generator().manual_seed(seed)
    responses = sample(policy, repeated, temperature=TEMPERATURE, generator=generator)
    closed = [ids if ids[-1] == EOS_ID else [*ids, EOS_ID] for ids in responses]
    errors = find_errors(policy, list(zip(repeated, closed, strict=True)))
    prefixes = zip(errors.ids.tolist(), errors.place.tolist(), strict=True)
    # The last of equal prefixes (a prompt is the problem) stands for all: one vote per prefix.
    kept = {tuple(ids[:place]): index for index, (ids, place) in enumerate(prefixes)}
    chosen = errors[torch.tensor(list(kept.values()))]
    return Drawn(questions, responses, chosen, (chosen.row // DRAWS).numpy())


def rank_first(reward: Any, errors: Places) -> dict[str, Floats]:
    """For every chooser and first error, 1 where a right token is ranked first."""
    parts = torch.arange(len(errors)).split(_ROWS)
    found = [_rank_first(reward, errors[rows]) for rows in parts]
    return {name: np.concatenate([part[name] for part in found]) for name in CHOOSERS}


def _rank_first(reward: Any, errors: Places) -> dict[str, Floats]:
    every = torch.arange(len(TOKENS)).expand(len(errors), -1)
    log_policy = errors.policy.clamp_min(LEAST).log()
    scores: dict[str, Tensor] = {
        "hard": linearised(reward, errors, "hard").detach(),
        "soft": linearised(reward, errors, "soft").detach(),
        "exact": swapped_scores(reward, errors, every),
    }
    tilted = {f"policy+{name}": log_policy + BETA * values for name, values in scores.items()}
    ranked = {"policy": log_policy, **scores, **tilted}
    return {
        name: errors.right.gather(1, values.argmax(dim=-1, keepdim=True))[:, 0].double().numpy()
        for name, values in ranked.items()
    }


def next_best(errors: Places) -> Floats:
    """For every first error, 1 where the policy's most likely token but the wrong one is right."""
    rows = torch.arange(len(errors))
    rest = errors.policy.clone()
    rest[rows, errors.ids[rows, errors.place]] = 0
    return errors.right[rows, rest.argmax(dim=-1)].double().numpy()


def load(folder: Path) -> tuple[Any, Any]:
    """Policy and reward model of a pair that `nabla-eval embedded train` wrote."""
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    policy = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)
    reward = AutoModelForTokenClassification.from_pretrained(folder / "reward", dtype=torch.float32)
    return policy.eval(), reward.eval()


def compare(folders: Sequence[Path], *, count: int, seed: int = 0) -> Comparison:
    """Measure reward models beside one policy, all on the same responses.

    Raises `ConfigError` where the folders' policies or tasks differ, or two have the same alignment
    and seed.
    """
    cards = [read_card(folder) for folder in folders]
    for folder, card in zip(folders, cards, strict=True):
        _same_policy(folders[0], cards[0], folder, card)
    _one_each(folders, cards)
    policy, _ = load(folders[0])
    drawn = draw(policy, numbers=cards[0]["task"]["numbers"], count=count, seed=seed)
    found = []
    for folder, card in zip(folders, cards, strict=True):
        _, reward = load(folder)
        recipe = card["reward"]["recipe"]
        found.append(
            Measured(
                name=folder.name,
                alignment=_kind(recipe),
                seed=recipe["seed"],
                numbers=describe(policy, reward, drawn.questions, drawn.responses),
                right_first=rank_first(reward, drawn.errors),
            )
        )
    return Comparison(found, drawn.clusters, len(drawn.questions))


def _kind(recipe: Mapping[str, Any]) -> str:
    """How a recipe aligns; older cards had no choice."""
    kind, beta = recipe.get("alignment", "none"), recipe.get("alignment_beta", 0.0)
    return f"{kind}, beta {beta:g}" if kind != "none" and beta else str(kind)


def _one_each(folders: Sequence[Path], cards: Sequence[Numbers]) -> None:
    seen: dict[tuple[str, int], Path] = {}
    for folder, card in zip(folders, cards, strict=True):
        recipe = card["reward"]["recipe"]
        other = seen.setdefault((_kind(recipe), recipe["seed"]), folder)
        if other is not folder:
            raise ConfigError(
                f"{other} and {folder} have the same alignment ({_kind(recipe)}) and seed "
                f"{recipe['seed']}: they would count as one. Compare one of each."
            )


def _same_policy(first: Path, one: Numbers, second: Path, two: Numbers) -> None:
    file = "policy/model.safetensors"
    if one["files"][file] != two["files"][file] or one["task"] != two["task"]:
        raise ConfigError(
            f"{first} and {second} have different policies or tasks, so their reward models would "
            "not be measured on the same responses. Compare pairs of one policy."
        )


# --- means over seeds ---------------------------------------------------------------------------

FIGURES: Final[Mapping[str, tuple[str, ...]]] = {
    "last-token AUC": ("reward_auc", "pooled"),
    "within-question AUC": ("reward_auc", "within_question"),
    "prefix AUC": ("prefix_auc", "pooled"),
    "best-of-8 accuracy": ("best_of_8_accuracy", "value"),
    "best-of-8 lift": ("best_of_8_gain", "value"),
}


def summary(comparison: Comparison) -> list[Numbers]:
    """Every figure by alignment: its value per seed, their mean, and for the choosers the paired
    difference to the control `none` over the seeds that both have, clustered by problem."""
    groups: dict[str, dict[int, Measured]] = {}
    for one in comparison.models:
        groups.setdefault(one.alignment, {})[one.seed] = one
    rows = []
    for label, path in FIGURES.items():
        for kind, models in groups.items():
            values = {seed: _at(one.numbers, path) for seed, one in models.items()}
            rows.append(_row(label, kind, values))
    for chooser in CHOOSERS:
        for kind, models in groups.items():
            values = {seed: float(one.right_first[chooser].mean()) for seed, one in models.items()}
            paired = None
            common = sorted(models.keys() & groups.get("none", {}).keys())
            if kind != "none" and common:
                gaps = [
                    models[seed].right_first[chooser] - groups["none"][seed].right_first[chooser]
                    for seed in common
                ]
                paired = clustered(np.mean(gaps, axis=0), comparison.clusters)
            rows.append(_row(f"right first: {chooser}", kind, values, paired))
    return rows


def _at(numbers: Numbers, path: Sequence[str]) -> float | None:
    value: Any = numbers
    for name in path:
        value = value[name]
    return None if value is None else float(value)


def _row(
    figure: str, kind: str, values: Mapping[int, float | None], paired: Numbers | None = None
) -> Numbers:
    defined = [value for value in values.values() if value is not None]
    return {
        "figure": figure,
        "alignment": kind,
        "mean": float(np.mean(defined)) if len(defined) == len(values) else None,
        "by_seed": {str(seed): value for seed, value in sorted(values.items())},
        "difference_to_none": paired,
    }


def clustered(values: Floats, clusters: NDArray[np.int64]) -> Numbers:
    """Mean of the values and its standard error, with all values of a cluster drawn together."""
    sums = np.bincount(clusters, weights=values - values.mean())
    present = len(np.unique(clusters))
    scale = present / max(present - 1, 1)
    error = float(np.sqrt(scale * (sums**2).sum()) / len(values))
    return {"value": float(values.mean()), "standard_error": error}
