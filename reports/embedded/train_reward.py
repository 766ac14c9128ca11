"""Training of the embedded reward model: a score at every token, initialised from the policy.

The score after a prefix is the logit that the target can still be reached; at the closing
``<eos>`` it is the logit that the response is right. Labels come from the exact prefix oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from pair_tokenizer import EOS_ID, PAD_ID, encode_prompt, token_strings
from plain_sampling import padded, sample, token_logits
from prefix_oracle import prefix_labels
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from train_policy import Report, fit, seeded

from nabla_eval.embedded.countdown import Puzzle, problems

Rows: TypeAlias = list[tuple[Puzzle, list[int]]]  # closed responses


@dataclass(frozen=True)
class RewardRecipe:
    """Everything the reward model's weights depend on, besides the policy and the versions."""

    seed: int = 0
    numbers: int = 3
    steps: int = 1000
    batch: int = 128
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    warmup: int = 50
    questions: int = 6_000
    samples: int = 8
    temperatures: tuple[float, ...] = (0.7, 1.0)
    replaced: float = 0.5
    first_error_weight: float = 3.0
    later_error_weight: float = 0.2


@dataclass(frozen=True)
class Graded:
    """Responses with exact labels; N rows, L tokens, padded on the right."""

    ids: Tensor  # [N, L] prompt and response
    alive: Tensor  # [N, L] 1 where the target is still reachable; right, at the last token
    weight: Tensor  # [N, L] of the per-prefix loss; 0 on the prompt and the padding
    last: Tensor  # [N] index of the closing token


def build_reward(policy: Any, recipe: RewardRecipe) -> Any:
    """A token classifier with one label on a copy of the policy's body."""
    from transformers import LlamaConfig, LlamaForTokenClassification

    settings = policy.config.to_dict()
    for stale in ("architectures", "id2label", "label2id"):
        settings.pop(stale, None)
    config = LlamaConfig(**settings)
    config.id2label, config.label2id = {0: "correct"}, {"correct": 0}
    config.classifier_dropout, config.use_cache = 0.0, False
    with seeded(recipe.seed):
        model = LlamaForTokenClassification(config)
    model.model.load_state_dict(policy.model.state_dict())
    return model


def train_reward(
    policy: Any, recipe: RewardRecipe, report: Report | None = None
) -> tuple[Any, dict[str, Any]]:
    """Train on samples of the policy and return (model, facts for the card).

    Bit for bit a function of the policy and the recipe.
    """
    graded = grade(collect(policy, recipe), recipe)
    model = build_reward(policy, recipe).train()
    rng = np.random.default_rng([recipe.seed, 1])

    def loss() -> Tensor:
        drawn = torch.from_numpy(rng.integers(len(graded.ids), size=recipe.batch))
        return reward_loss(model, graded, drawn)

    losses = fit(model, recipe, loss, report)
    right = graded.alive.gather(1, graded.last[:, None]).mean().item()
    facts = {"graded_responses": len(graded.ids), "share_right": right, "losses": losses}
    return model.eval(), facts


def reward_loss(model: Any, graded: Graded, rows: Tensor) -> Tensor:
    """Binary cross-entropy at the closing token plus its weighted mean over the prefixes."""
    ids, alive, weight = graded.ids[rows], graded.alive[rows], graded.weight[rows]
    scores = model(input_ids=ids).logits[..., 0]
    losses = binary_cross_entropy_with_logits(scores, alive, reduction="none")
    final = losses.gather(1, graded.last[rows][:, None]).mean()
    return final + (losses * weight).sum() / weight.sum()


# --- data ---------------------------------------------------------------------------------------


def collect(policy: Any, recipe: RewardRecipe) -> Rows:
    """Sample responses to training problems and replace a token in some."""
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    rng = np.random.default_rng([recipe.seed, 2])
    questions = problems(recipe.questions, "train", numbers=recipe.numbers, seed=recipe.seed)
    rows: Rows = []
    for number in range(recipe.samples):
        temperature = recipe.temperatures[number % len(recipe.temperatures)]
        drawn = sample(policy, questions, temperature=temperature, generator=generator)
        chosen = rng.random(len(questions)) < recipe.replaced
        rows += _with_replacements(policy, questions, drawn, chosen, rng)
    return rows


def _with_replacements(
    policy: Any,
    questions: list[Puzzle],
    responses: list[list[int]],
    chosen: np.ndarray,
    rng: np.random.Generator,
) -> Rows:
    """Close every response, and give the chosen ones another token at one place.

    Half of the new tokens are drawn from the policy there (plausible ones), half uniformly; what
    follows stays as it was written, as it does for a gradient at a swapped token.
    """
    closed = [ids if ids[-1] == EOS_ID else [*ids, EOS_ID] for ids in responses]
    rows = list(zip(questions, closed, strict=True))
    picked = np.flatnonzero(chosen)
    logits = token_logits(policy, [rows[i][0] for i in picked], [rows[i][1] for i in picked])
    for index, values in zip(picked, logits, strict=True):
        problem, response = rows[index]
        place = int(rng.integers(len(response) - 1)) if len(response) > 1 else 0
        weights = np.ones(values.shape[1])
        if rng.random() < 0.5:
            weights = values[place].double().softmax(dim=-1).numpy()
        weights[[response[place], PAD_ID]] = 0.0
        token = int(rng.choice(len(weights), p=weights / weights.sum()))
        tail = [] if token == EOS_ID else response[place + 1 :] or [EOS_ID]
        rows[index] = (problem, [*response[:place], token, *tail])
    return rows


def grade(rows: Rows, recipe: RewardRecipe) -> Graded:
    """Exact labels and loss weights of closed responses."""
    ids = padded([encode_prompt(problem) + response for problem, response in rows])
    alive = torch.zeros(ids.shape)
    weight = torch.zeros(ids.shape)
    last = torch.zeros(len(rows), dtype=torch.long)
    for index, (problem, response) in enumerate(rows):
        labels = prefix_labels(problem, token_strings(response))
        start = 2 * len(problem.numbers) + 2
        stop = start + len(response)
        errors = labels.count(False)
        alive[index, start:stop] = torch.tensor(labels, dtype=alive.dtype)
        weight[index, start:stop] = torch.tensor(_weights(len(labels), errors, recipe))
        last[index] = stop - 1
    return Graded(ids, alive, weight, last)


def _weights(tokens: int, errors: int, recipe: RewardRecipe) -> list[float]:
    """Where the mistake is made matters most; after it the answer is repeated, not learned."""
    weights = [1.0] * (tokens - errors)
    if errors:
        weights += [recipe.first_error_weight] + [recipe.later_error_weight] * (errors - 1)
    return weights
