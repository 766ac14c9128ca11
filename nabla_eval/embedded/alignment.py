"""Alignment of the reward model's gradient with what swapping a token would do (DESIGN 3.8).

A first-order method reads G_v = <d log sigmoid(s(y_<p, e)) / de, e_v>: the score of the prefix
that ends at position p, linearised in its last input embedding e. As long as a response is right
the exact search knows every token that may follow, so G can be trained, by double backpropagation:
cross-entropy of softmax_v G_v with the right tokens ("gold"), or, without knowing them, with the
model's own scores of the swapped tokens ("self"); where responses first go wrong ("errors"), or
wherever the policy is unsure, as the methods ask for G ("doubts").
"""

from __future__ import annotations

from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import logsigmoid, one_hot

from nabla_eval.embedded.places import Places
from nabla_eval.embedded.rivals import scores_beside

Linearised = Literal["soft", "hard"]
LEAST: Final = 1e-6  # probability: below it the policy's logarithm says nothing


def linearised(model: Any, places: Places, point: Linearised) -> Tensor:
    """G [B, V] in nats, differentiable with respect to the model's weights.

    e is the policy's mean embedding at the place ("soft") or its most likely token's ("hard").
    """
    table = model.get_input_embeddings().weight
    mixture = places.policy.to(table)
    if point == "hard":
        mixture = one_hot(mixture.argmax(dim=-1), len(table)).to(table)
    inner = mixture @ table
    rows = torch.arange(len(places))
    embeddings = table[places.ids].index_put((rows, places.place), inner)
    # No fused attention kernel has a second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        scores = model(inputs_embeds=embeddings).logits[rows, places.place, 0]
        (slope,) = torch.autograd.grad(logsigmoid(scores).sum(), inner, create_graph=True)
    return slope @ table.T


@torch.no_grad()
def swapped_scores(model: Any, places: Places, tokens: Tensor) -> Tensor:
    """log sigmoid of the prefix score [B, K], in nats, with tokens [B, K] at the place."""
    where = places.place[:, None].expand_as(tokens)
    return logsigmoid(scores_beside(model, places.ids, where, tokens)[1])


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
    """Draws places, from a stream of its own, and gives the unweighted term of one step."""

    def __init__(self, places: Places, recipe: Recipe) -> None:
        self._places, self._recipe = places, recipe
        self._rng = np.random.default_rng([recipe.seed, 3])

    def __call__(self, model: Any) -> Tensor:
        recipe = self._recipe
        drawn = self._rng.integers(len(self._places), size=recipe.alignment_rows)
        places = self._places[torch.from_numpy(drawn)]
        values = linearised(model, places, recipe.linearisation)
        if recipe.alignment == "gold":
            return gold_loss(tilted(values, places.policy, recipe.alignment_beta), places.right)
        tokens = places.policy.topk(recipe.alignment_top, dim=-1).indices
        exact = swapped_scores(model, places, tokens)
        policy = places.policy.gather(1, tokens)
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
