"""Passes of the reward model over what may follow a prefix, and the tokens that end it there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from nabla_eval.dto.objective import embed_reward
from nabla_eval.engine.score import Encoded, Ids, RewardEncoder, filled
from nabla_eval.models.pair import Policy, Reward
from nabla_eval.models.prefix import Pass, Prefixes, extend, joined
from nabla_eval.protocol import Problem
from nabla_eval.thought import Thought


def shorter(prefix: Encoded) -> Encoded:
    """Without the last id."""
    return Encoded(prefix.ids[:-1], None if prefix.kv is None else prefix.kv[..., :-1, :])


def after(
    encoder: RewardEncoder,
    prefixes: Sequence[Encoded],
    owner: Sequence[int],
    tails: Sequence[Ids],
    soft: Float[Tensor, "B Dr"] | None = None,
) -> Pass:
    """Forward tails, each after the row of its owner; nothing of them is kept.

    With `soft`, these embeddings stand in place of each tail's first id, and the pass's
    embeddings are the leaf to differentiate to.
    """
    reward, parts = encoder.reward, list(tails)
    if not encoder.caches:
        parts = [prefixes[i].ids + tail for i, tail in zip(owner, tails, strict=True)]
    embed = partial(embed_reward, reward)
    if soft is not None:
        embed = partial(_softened, reward, soft, [len(tail) for tail in tails])
    known, kvs = None, [prefix.kv for prefix in prefixes]
    if any(kv is not None and kv.shape[-2] for kv in kvs):
        # Nobody asks for the states of what is known.
        known = Prefixes(*joined(filled(kvs)), None, list(owner))
    return extend(reward.base, embed, parts, reward.device, soft is not None, known)


def _softened(reward: Reward, soft: Tensor, counts: Sequence[int], ids: Tensor) -> Tensor:
    """Embeddings of ids, with `soft` in the first of each row's last `count` columns."""
    embeds = embed_reward(reward, ids).clone()
    columns = ids.shape[1] - torch.tensor(counts, device=ids.device)
    embeds[torch.arange(len(ids), device=ids.device), columns] = soft.to(embeds.dtype)
    return embeds


def ends_of(policy: Policy, problem: Problem, tokens: Sequence[int]) -> tuple[int, ...]:
    """Tokens that end a response wherever they follow: the policy's, and one-token stop strings.

    Stop strings do not count in a thought, which the `tokens` so far may have left open.
    """
    stops, thought = problem.stop, problem.thought
    if stops and thought is not None:
        stops = stops if _answering(policy, thought, tokens) else ()
    own = (policy.token_of(stop) for stop in stops)
    return tuple(dict.fromkeys((*policy.end_ids, *(token for token in own if token is not None))))


def _answering(policy: Policy, thought: Thought, tokens: Sequence[int]) -> bool:
    return thought.answer_at(policy.decode(tokens, special=True)) is not None
