"""L(y) and its gradient with respect to every one-hot token, from one pass per model.

L(y) = -lam r(y|x) - nll_weight log pi(y|x) (Eq. 2), and by Prop. C.1 (DESIGN 3.1)

    dL/dy_l = -nll_weight log pi(.|y_<l, x)                        prefix term
            + E_pi . d(-nll_weight log pi)/de_l                     postfix term, through attention
            + E_r  . d(-lam r)/de'_l                                reward term

with e, e' the two models' input embeddings of y. An ordinary forward and backward pass to the
embeddings thus serves all positions; rows of length V are formed only where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nabla_eval.config import Objective
from nabla_eval.models.pair import Pair, Policy, Reward
from nabla_eval.requests import Frame

_ELEMENTS = 2**25  # of rows x V formed at once


@dataclass(frozen=True)
class Site:
    """One sequence: the prompt, the reward model's frame, the response and how much is scored."""

    prompt: tuple[int, ...]
    frame: Frame
    tokens: tuple[int, ...]
    scored: int


@dataclass(frozen=True)
class Backward:
    """What one pass through both models leaves behind for a sequence of L tokens."""

    hidden: Float[Tensor, "L D"]  # the policy's states that predict each token
    policy: Float[Tensor, "L D"]  # d(-nll_weight log pi)/de
    reward: Float[Tensor, "L Dr"]  # d(-lam r)/de', 0 at tokens that are not scored
    value: float  # r(y|x)


def widen(tensor: Tensor) -> Tensor:
    """At least float32, in which softmaxes and long sums are taken."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def differentiate(pair: Pair, sites: Sequence[Site], objective: Objective) -> list[Backward]:
    """Gradient of L at several sequences, as one batch per model."""
    with torch.inference_mode(False), torch.enable_grad():
        policy = _policy_pass(pair.policy, sites, objective.nll_weight)
        reward = _reward_pass(pair.judge, sites, objective)
    return [Backward(*own, *other) for own, other in zip(policy, reward, strict=True)]


def _padded_mask(lengths: Sequence[int], device: torch.device) -> Int[Tensor, "B T"]:
    columns = torch.arange(max(lengths), device=device)
    starts = max(lengths) - torch.tensor(lengths, device=device)
    return (columns >= starts[:, None]).long()


def _policy_pass(
    policy: Policy, sites: Sequence[Site], weight: float
) -> list[tuple[Tensor, Tensor]]:
    """Hidden states and embedding gradients of -weight log pi(y|x), per sequence."""
    inputs = [site.prompt + site.tokens[:-1] for site in sites]  # no token follows the last one
    mask = _padded_mask([len(row) for row in inputs], policy.device)
    width = mask.shape[1]
    ids = torch.tensor(
        [[0] * (width - len(row)) + list(row) for row in inputs], device=policy.device
    )
    embeds = policy.embedding[ids].detach().requires_grad_()
    places = (mask.cumsum(-1) - 1).clamp_(min=0)
    output = policy.base(
        inputs_embeds=embeds, attention_mask=mask, position_ids=places, use_cache=False
    ).last_hidden_state
    lengths = [len(site.tokens) for site in sites]
    states = [output[i, width - length :] for i, length in enumerate(lengths)]
    flat = torch.cat(states)
    hidden = flat.detach()
    if weight == 0:
        gradient = torch.zeros_like(embeds)
    else:
        tokens = _ids([token for site in sites for token in site.tokens], flat)
        outer = -weight * _log_likelihood_gradient(policy, hidden, tokens)
        (gradient,) = torch.autograd.grad(flat, embeds, outer.to(flat.dtype))
    rows = []
    for i, own in enumerate(hidden.split(lengths)):
        last = gradient.new_zeros(1, gradient.shape[-1])
        rows.append((own, torch.cat([gradient[i, width - lengths[i] + 1 :], last])))
    return rows


def _log_likelihood_gradient(
    policy: Policy, hidden: Float[Tensor, "N D"], tokens: Int[Tensor, " N"]
) -> Float[Tensor, "N D"]:
    """d sum_i log pi(y_i) / d hidden_i, in chunks so that N x V is never held at once."""
    chunk = max(1, _ELEMENTS // policy.vocabulary)
    gradients = []
    for states, own in zip(hidden.split(chunk), tokens.split(chunk), strict=True):
        leaf = states.detach().requires_grad_()
        chosen = widen(policy.head(leaf)).log_softmax(-1).gather(-1, own[:, None]).sum()
        gradients.append(torch.autograd.grad(chosen, leaf)[0])
    return torch.cat(gradients)


def reward_inputs(
    reward: Reward, sites: Sequence[Site]
) -> tuple[Float[Tensor, "B T Dr"], Int[Tensor, "B T"], list[slice]]:
    """Embeddings of frame + response, padded on the left; mask; where the response stands."""
    frames = [(len(s.frame.before), s.scored, len(s.frame.after)) for s in sites]
    mask = _padded_mask([sum(lengths) for lengths in frames], reward.device)
    width = mask.shape[1]
    embeds = reward.table.new_zeros((mask.numel(), reward.table.shape[1]))
    own: tuple[list[int], list[int]] = [], []  # token ids of frames, and where they stand
    answer: tuple[list[int], list[int]] = [], []  # the same of responses
    spans = []
    for i, (site, (before, scored, after)) in enumerate(zip(sites, frames, strict=True)):
        start = (i + 1) * width - after - scored
        own[0].extend(site.frame.before + site.frame.after)
        own[1].extend((*range(start - before, start), *range(start + scored, (i + 1) * width)))
        answer[0].extend(site.tokens[:scored])
        answer[1].extend(range(start, start + scored))
        spans.append(slice(start - i * width, start - i * width + scored))
    for table, (ids, places) in ((reward.table, own), (reward.embedding, answer)):
        embeds[_ids(places, embeds)] = table[_ids(ids, embeds)]
    return embeds.view(*mask.shape, -1), mask, spans


def _ids(values: Sequence[int], like: Tensor) -> Int[Tensor, " N"]:
    return torch.tensor(values, dtype=torch.long, device=like.device)


def reward_scores(
    reward: Reward, embeds: Float[Tensor, "B T Dr"], mask: Int[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """The head's score at every token; the last column is r(y|x)."""
    places = (mask.cumsum(-1) - 1).clamp_(min=0)
    hidden = reward.base(
        inputs_embeds=embeds, attention_mask=mask, position_ids=places, use_cache=False
    ).last_hidden_state
    return widen(reward.head(hidden))


def _reward_pass(
    reward: Reward, sites: Sequence[Site], objective: Objective
) -> list[tuple[Tensor, float]]:
    """Embedding gradients of -lam r at the response's tokens and r itself, per sequence."""
    embeds, mask, spans = reward_inputs(reward, sites)
    embeds.requires_grad_()
    scores = reward_scores(reward, embeds, mask)
    loss = -objective.lam * scores[:, -1].sum()
    if objective.reward_gradient == "process":
        ends = torch.zeros_like(scores)
        for i, (site, span) in enumerate(zip(sites, spans, strict=True)):
            ends[i, span] = step_ends(reward, site).to(ends.dtype)
        loss = loss - objective.lam * objective.process_weight * (ends * scores).sum()
    (gradient,) = torch.autograd.grad(loss, embeds)
    values = scores[:, -1].tolist()
    rows = []
    for i, (site, span) in enumerate(zip(sites, spans, strict=True)):
        rest = gradient.new_zeros(len(site.tokens) - site.scored, gradient.shape[-1])
        rows.append((torch.cat([gradient[i, span], rest]), values[i]))
    return rows


def step_ends(reward: Reward, site: Site) -> Tensor:
    """1 at the scored tokens after which a process reward gives a score, `[scored]`."""
    tokens = site.tokens[: site.scored]
    ends = [True] * len(tokens) if reward.ends is None else reward.ends(tokens)
    return torch.tensor(ends, device=reward.device)


def row_gradient(
    pair: Pair, backward: Backward, rows: Sequence[int], objective: Objective
) -> Float[Tensor, "R V"]:
    """dL/dy at some positions of one sequence (Prop. C.1): the three terms, summed."""
    return row_gradients(pair, [(backward, rows)], objective)


@torch.no_grad()
def row_gradients(
    pair: Pair, parts: Sequence[tuple[Backward, Sequence[int]]], objective: Objective
) -> Float[Tensor, "R V"]:
    """dL/dy at some positions of several sequences, one sequence after another."""
    policy, reward = pair.policy, pair.judge
    chosen = [(backward, list(rows)) for backward, rows in parts]
    gradient = _onto(policy.embedding, torch.cat([b.policy[rows] for b, rows in chosen]))
    outcome = torch.cat([b.reward[rows] for b, rows in chosen])
    gradient += _onto(reward.embedding, outcome).to(gradient.device)
    if objective.nll_weight:
        hidden = torch.cat([b.hidden[rows] for b, rows in chosen])
        gradient -= objective.nll_weight * widen(policy.head(hidden)).log_softmax(-1)
    return gradient


def _onto(table: Float[Tensor, "V D"], gradient: Float[Tensor, "R D"]) -> Float[Tensor, "R V"]:
    """Embedding gradients times the table in at least float32, never holding a wider copy of it."""
    rows = widen(gradient)
    if rows.dtype == table.dtype:
        return rows @ table.T
    parts = table.split(max(1, _ELEMENTS // table.shape[1]))
    return torch.cat([rows @ widen(part).T for part in parts], -1)
