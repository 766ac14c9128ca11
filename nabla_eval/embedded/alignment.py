"""Alignment of the reward model's gradient with what swapping a token would do (DESIGN 3.8).

A first-order method reads G_v = <d log sigmoid(s(y_<p, e)) / de, e_v>: the score of the prefix
that ends at position p, linearised in its last input embedding e. Where a response first goes
wrong the exact search knows every token that would have been right, so G can be trained, by
double backpropagation: cross-entropy of softmax_v G_v with the right tokens ("gold"), or, without
knowing them, with the model's own scores of the swapped tokens ("self").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import logsigmoid, one_hot

from nabla_eval.embedded.countdown import Problem
from nabla_eval.embedded.prefix import PrefixOracle
from nabla_eval.embedded.sampling import padded, token_logits
from nabla_eval.embedded.tokenizer import IDS, TOKENS, encode_prompt, token_strings
from nabla_eval.errors import DataError

Linearised = Literal["soft", "hard"]
LEAST: Final = 1e-6  # probability: below it the policy's logarithm says nothing


@dataclass(frozen=True)
class FirstErrors:
    """Where responses first go wrong; B rows, L tokens, V vocabulary."""

    row: Tensor  # [B] index of the response among those that were searched
    ids: Tensor  # [B, L] prompt and response, padded on the right
    place: Tensor  # [B] index in ids of the first wrong token
    right: Tensor  # [B, V] whether a token would have kept the target reachable
    policy: Tensor  # [B, V] the policy's probabilities at that place (temperature 1)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Tensor) -> FirstErrors:
        """Some rows, cut behind their last place: causal scores do not see what follows."""
        place = self.place[rows]
        ids = self.ids[rows, : int(place.max()) + 1]
        return FirstErrors(self.row[rows], ids, place, self.right[rows], self.policy[rows])


def find_errors(policy: Any, rows: Sequence[tuple[Problem, list[int]]]) -> FirstErrors:
    """The first error of every response that has one, with the tokens that were right there."""
    found = [(index, *error) for index, row in enumerate(rows) if (error := first_error(*row))]
    if not found:
        raise DataError(
            f"None of {len(rows)} responses has an error to align with. Draw more questions."
        )
    chosen = [rows[index] for index, _, _ in found]
    logits = token_logits(policy, [row[0] for row in chosen], [row[1] for row in chosen])
    right = torch.zeros(len(found), len(TOKENS), dtype=torch.bool)
    for number, (_, _, tokens) in enumerate(found):
        right[number, [IDS[token] for token in tokens]] = True
    prompts = [encode_prompt(problem) for problem, _ in chosen]
    return FirstErrors(
        row=torch.tensor([index for index, _, _ in found]),
        ids=padded([prompt + row[1] for prompt, row in zip(prompts, chosen, strict=True)]),
        place=torch.tensor(
            [len(prompt) + where for prompt, (_, where, _) in zip(prompts, found, strict=True)]
        ),
        right=right,
        policy=torch.stack(
            [values[where] for values, (_, where, _) in zip(logits, found, strict=True)]
        ).softmax(dim=-1),
    )


def first_error(problem: Problem, response: Sequence[int]) -> tuple[int, set[str]] | None:
    """Place in the response of its first wrong token and the right ones there; None if right."""
    oracle = PrefixOracle(problem)
    for place, token in enumerate(token_strings(response)):
        right = oracle.right_tokens()
        if not oracle.read(token):
            return place, right
    return None


# --- the linearised score and the exact one -----------------------------------------------------


def linearised(model: Any, errors: FirstErrors, point: Linearised) -> Tensor:
    """G [B, V] in nats, differentiable with respect to the model's weights.

    e is the policy's mean embedding at the place ("soft") or its most likely token's ("hard").
    """
    table = model.get_input_embeddings().weight
    mixture = errors.policy.to(table)
    if point == "hard":
        mixture = one_hot(mixture.argmax(dim=-1), len(table)).to(table)
    inner = mixture @ table
    rows = torch.arange(len(errors))
    embeddings = table[errors.ids].index_put((rows, errors.place), inner)
    # No fused attention kernel has a second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        scores = model(inputs_embeds=embeddings).logits[rows, errors.place, 0]
        (slope,) = torch.autograd.grad(logsigmoid(scores).sum(), inner, create_graph=True)
    return slope @ table.T


@torch.no_grad()
def swapped_scores(model: Any, errors: FirstErrors, tokens: Tensor) -> Tensor:
    """log sigmoid of the prefix score [B, K], in nats, with tokens [B, K] at the place.

    A row's tokens stand side by side behind its ids, and each sees the prefix and itself: K
    scores for one encoding of the prefix.
    """
    (rows, width), kept = errors.ids.shape, tokens.shape[1]
    column = torch.arange(width)
    sees = torch.zeros(rows, width + kept, width + kept, dtype=torch.bool)
    sees[:, :width, :width] = torch.ones(width, width, dtype=torch.bool).tril()
    sees[:, width:, :width] = (column < errors.place[:, None])[:, None]
    sees[:, width:, width:] = torch.eye(kept, dtype=torch.bool)
    hidden = torch.finfo(model.dtype).min
    mask = torch.zeros(sees.shape, dtype=model.dtype).masked_fill(~sees, hidden)
    positions = torch.cat([column.expand(rows, -1), errors.place[:, None].expand(-1, kept)], dim=1)
    output = model(
        input_ids=torch.cat([errors.ids, tokens], dim=1),
        attention_mask=mask[:, None],
        position_ids=positions,
    )
    return logsigmoid(output.logits[:, width:, 0])


# --- the training term --------------------------------------------------------------------------


class Recipe(Protocol):
    """The options of a reward recipe that are read here."""

    @property
    def seed(self) -> int: ...
    @property
    def alignment(self) -> str: ...
    @property
    def alignment_rows(self) -> int: ...
    @property
    def alignment_top(self) -> int: ...
    @property
    def alignment_beta(self) -> float: ...
    @property
    def linearisation(self) -> Linearised: ...


class Aligner:
    """Draws first errors, from a stream of its own, and gives the unweighted term of one step."""

    def __init__(self, errors: FirstErrors, recipe: Recipe) -> None:
        self._errors, self._recipe = errors, recipe
        self._rng = np.random.default_rng([recipe.seed, 3])

    def __call__(self, model: Any) -> Tensor:
        recipe = self._recipe
        drawn = self._rng.integers(len(self._errors), size=recipe.alignment_rows)
        errors = self._errors[torch.from_numpy(drawn)]
        values = linearised(model, errors, recipe.linearisation)
        if recipe.alignment == "gold":
            return gold_loss(tilted(values, errors.policy, recipe.alignment_beta), errors.right)
        tokens = errors.policy.topk(recipe.alignment_top, dim=-1).indices
        exact = swapped_scores(model, errors, tokens)
        policy = errors.policy.gather(1, tokens)
        return self_loss(
            tilted(values.gather(1, tokens), policy, recipe.alignment_beta),
            tilted(exact, policy, recipe.alignment_beta),
        )


def tilted(values: Tensor, policy: Tensor, beta: float) -> Tensor:
    """Logits [B, V] of pi exp(beta G), which first-order methods choose by; of exp(G) if beta = 0.

    With beta > 0 the gradient has to say only what the policy does not know already.
    """
    return values if beta == 0 else policy.clamp_min(LEAST).log() + beta * values


def gold_loss(values: Tensor, right: Tensor) -> Tensor:
    """Mean of -log sum_{v right} softmax(G)_v over rows [B, V]."""
    log_share = values.log_softmax(dim=-1).masked_fill(~right, -torch.inf)
    return -log_share.logsumexp(dim=-1).mean()


def self_loss(values: Tensor, exact: Tensor) -> Tensor:
    """Cross-entropy of the logits [B, K] with the model's own, from exact scores, as a target.

    No gradient goes through the target, so that the scores are not pulled towards G.
    """
    return -(exact.softmax(dim=-1) * values.log_softmax(dim=-1)).sum(dim=-1).mean()
