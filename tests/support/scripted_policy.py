"""A policy that writes what a test says: its logits depend on the position alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nabla_eval.models.load import policy_from, reward_from
from nabla_eval.models.pair import Pair

SURE = 30.0  # logit of the token that is to be written; the others have 0


class Script(torch.nn.Module):
    """A base whose hidden states are rows of logits `[positions, V]`, with a real model's cache."""

    def __init__(self, base: torch.nn.Module, logits: Tensor) -> None:
        super().__init__()
        self.base, self.config = base, base.config
        self.register_buffer("logits", logits)

    def forward(self, position_ids: Tensor | None = None, **options: Any) -> Any:
        output = self.base(position_ids=position_ids, **options)
        if position_ids is None:
            position_ids = torch.arange(output.last_hidden_state.shape[1])[None]
        output.last_hidden_state = self.logits[position_ids]
        return output


def logits_of(tokens: Sequence[int], vocabulary: int, begin: int, length: int = 64) -> Tensor:
    """Logits `[length, V]` that write tokens after a prompt of `begin` tokens; id 0 elsewhere."""
    logits = torch.zeros(length, vocabulary, dtype=torch.float64)
    logits[:, 0] = SURE
    for i, token in enumerate(tokens):
        logits[begin - 1 + i, 0] = 0
        logits[begin - 1 + i, token] = SURE
    return logits


def scripted_pair(tokenizer: Any, logits: Tensor) -> Pair:
    """A pair whose policy has these logits and whose reward model has random weights."""
    import model_builders as build

    policy = policy_from(build.tiny("policy", tokenizer).eval(), tokenizer)
    judge = build.tiny("process", tokenizer).eval()
    written = replace(policy, base=Script(policy.base, logits), head=lambda states: states)
    return Pair(written, reward_from(judge, tokenizer, policy))


def tokenizer_with(
    *special: str, plain: Sequence[str] = (), words: Sequence[str] | None = None, **options: Any
) -> PreTrainedTokenizerFast:
    """`model_builders.word_tokenizer` with further tokens, special and plain ones.

    Words of several characters are tokens that no text is encoded to, but that decode.
    """
    import model_builders as build

    tokenizer = build.word_tokenizer(*(() if words is None else (words,)), **options)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
    tokenizer.add_tokens(
        [AddedToken(text, special=True, normalized=False) for text in special], special_tokens=True
    )
    return tokenizer
