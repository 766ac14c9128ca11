"""Proposition C.1: the gradient of L(y) at every token, and C.3: how it fades with confidence.

L(y) = -λ Σ_e r(y_≤e|x) - Σ_i y_iᵀ log π(·|y_<i, x), with relaxed one-hot tokens y_i. The ends e
are the last token alone (outcome reward) or every step's end (process reward).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nabla_theory import noise
from nabla_theory.transformer import Transformer, random_transformer


@dataclass(frozen=True)
class Pair:
    """A policy, a reward model, a prompt, and λ."""

    policy: Transformer
    reward: Transformer
    prompt: Tensor  # [P, V], one-hot
    lam: float
    ends: tuple[int, ...]  # response positions that are scored

    def log_policy(self, y: Tensor) -> Tensor:
        """Row i is log π(·|y_<i, x); [L, V] of y [L, V]."""
        logits = self.policy.read(self.policy.embed(torch.cat([self.prompt, y])))
        start = len(self.prompt) - 1
        return torch.log_softmax(logits[start : start + len(y)], dim=-1)

    def rewards(self, y: Tensor) -> Tensor:
        """r(y_≤e|x) for every end e; [E]."""
        scores = self.reward.read(self.reward.embed(torch.cat([self.prompt, y])))[:, 0]
        return scores[[len(self.prompt) + end for end in self.ends]]

    def loss(self, y: Tensor) -> Tensor:
        """L(y) (Eq. 2); a scalar."""
        return -self.lam * self.rewards(y).sum() - (y * self.log_policy(y)).sum()


def random_pair(
    seed: int, *, length: int = 6, vocabulary: int = 9, process: bool = False, lam: float = 2.0
) -> tuple[Pair, Tensor]:
    """A random pair and a one-hot response [L, V] whose tokens all differ."""
    order = torch.from_numpy(noise.generator(seed, "tokens").permutation(vocabulary))
    prompt = torch.eye(vocabulary, dtype=noise.DTYPE)[order[:3]]
    response = torch.eye(vocabulary, dtype=noise.DTYPE)[order[-length:]]
    pair = Pair(
        random_transformer(seed, "policy", vocabulary, vocabulary),
        random_transformer(seed, "reward", vocabulary, 1),
        prompt,
        lam,
        tuple(range(1, length, 2)) if process else (length - 1,),
    )
    return pair, response


class Terms(NamedTuple):
    """The three terms of Prop. C.1, each [L, V]; their sum is ∂L/∂y."""

    prefix: Tensor
    postfix: Tensor
    reward: Tensor

    @property
    def total(self) -> Tensor:
        """∂L/∂y; [L, V]."""
        return self.prefix + self.postfix + self.reward


def jacobians(pair: Pair, y: Tensor) -> tuple[Tensor, Tensor]:
    """∂ log π_i/∂y_l as [L, V, L, V] and ∂r_e/∂y_l as [E, L, V], entry by entry."""
    policy = torch.autograd.functional.jacobian(pair.log_policy, y)
    reward = torch.autograd.functional.jacobian(pair.rewards, y)
    assert isinstance(policy, Tensor) and isinstance(reward, Tensor)
    return policy, reward


def prefix_term(log_policy: Tensor) -> Tensor:
    """-log π(·|y_<l, x) at every l; [L, V]."""
    return -log_policy


def postfix_term(jacobian: Tensor, y: Tensor) -> Tensor:
    """-Σ_{i>l} [∂ log π(·|y_<i, x)/∂y_l]ᵀ y_i at every l; [L, V]."""
    later = torch.ones(len(y), len(y), dtype=y.dtype).tril(-1)  # [i, l]: i > l
    return -torch.einsum("ivlw,iv,il->lw", jacobian, y, later)


def reward_term(jacobian: Tensor, ends: tuple[int, ...], lam: float) -> Tensor:
    """-λ Σ_{e>=l} ∂r(y_≤e|x)/∂y_l at every l; [L, V]."""
    length = jacobian.shape[1]
    reached = torch.tensor([[float(end >= at) for at in range(length)] for end in ends])
    return -lam * torch.einsum("elw,el->lw", jacobian, reached.to(jacobian.dtype))


def proposition_c1(pair: Pair, y: Tensor) -> Terms:
    """∂L/∂y by its three terms, from per-token Jacobians; y is [L, V]."""
    policy, reward = jacobians(pair, y)
    with torch.no_grad():
        log_policy = pair.log_policy(y)
    return Terms(
        prefix_term(log_policy), postfix_term(policy, y), reward_term(reward, pair.ends, pair.lam)
    )


def printed_entries(jacobian: Tensor, y: Tensor) -> Tensor:
    """The postfix term by entries as Eq. 14 prints it, y_{l,v} where y_{i,v} belongs; [L, V]."""
    later = torch.ones(len(y), len(y), dtype=y.dtype).tril(-1)
    return -torch.einsum("ivlw,lv,il->lw", jacobian, y, later)


def printed_postfix(jacobian: Tensor, y: Tensor) -> Tensor:
    """The postfix term as Eq. 15 prints it, -[Σ_{i>l} ∂ log π_i/∂y_l]ᵀ y_l; [L, V]."""
    rows = [-jacobian[at + 1 :, :, at].sum(0).T @ y[at] for at in range(len(y))]
    return torch.stack(rows)


def bare_postfix(jacobian: Tensor, y: Tensor) -> Tensor:
    """The postfix term with Eq. 5's bare y, read as the sum of its rows; [L, V].

    Literally, [∂ log π_i/∂y_l]ᵀ y is a V×L matrix and no gradient of a token.
    """
    return postfix_term(jacobian, y.sum(0).expand_as(y))


def printed_reward(terms: Terms) -> Tensor:
    """∂L/∂y with δ_reward as Eq. 11 prints it, without the minus of -∂r; [L, V]."""
    return terms.prefix + terms.postfix - terms.reward


def backpropagated(pair: Pair, y: Tensor) -> Tensor:
    """∂L/∂y by one backward pass; [L, V]."""
    y = y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(pair.loss(y), y)
    return gradient


def through_embeddings(pair: Pair, y: Tensor) -> Tensor:
    """∂L/∂y = -log π + E_π ∂L/∂e + E_r ∂L/∂e', from passes to the input embeddings; [L, V].

    No one-hot matrix enters a derivative: this is how large vocabularies are affordable.
    """
    start = len(pair.prompt)
    inputs = torch.cat([pair.prompt, y])
    policy_in = pair.policy.embed(inputs).requires_grad_()
    reward_in = pair.reward.embed(inputs).requires_grad_()
    log_policy = torch.log_softmax(pair.policy.read(policy_in)[start - 1 : -1], dim=-1)
    scores = pair.reward.read(reward_in)[:, 0][[start + end for end in pair.ends]]
    loss = -pair.lam * scores.sum() - (y * log_policy).sum()
    from_policy, from_reward = torch.autograd.grad(loss, [policy_in, reward_in])
    postfix = from_policy[start:] @ pair.policy.embedding.T
    return -log_policy.detach() + postfix + from_reward[start:] @ pair.reward.embedding.T


@torch.no_grad()
def swapped_losses(pair: Pair, y: Tensor) -> Tensor:
    """L of y with the token at l replaced by v, for every l and v; [L, V].

    Σ_v p_v times row l is E[L] when y_l ~ p and the other tokens stay: no relaxation is involved.
    """
    losses = torch.empty_like(y)
    for place, token in itertools.product(range(len(y)), range(y.shape[1])):
        swapped = y.clone()
        swapped[place] = torch.nn.functional.one_hot(torch.tensor(token), y.shape[1])
        losses[place, token] = pair.loss(swapped)
    return losses


def finite_differences(pair: Pair, y: Tensor, width: float = 1e-4) -> Tensor:
    """∂L/∂y by central differences of fourth order, error O(width⁴); [L, V]."""
    gradient = torch.empty_like(y)
    for index in range(y.numel()):
        bump = torch.zeros_like(y).view(-1)
        bump[index] = width
        bump = bump.view_as(y)
        near = pair.loss(y + bump) - pair.loss(y - bump)
        far = pair.loss(y + 2 * bump) - pair.loss(y - 2 * bump)
        gradient.view(-1)[index] = (8 * near - far) / (12 * width)
    return gradient
