"""A policy that writes what a test says: its logits depend on the position alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from scripted_server import Answer, choice
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nabla_eval.models.load import policy_from, reward_from
from nabla_eval.models.pair import Pair

SURE = 30.0  # logit of the token that is to be written; the others have 0


def _write(base: Any, args: Any, options: dict[str, Any], output: Any) -> Any:
    """Rows of `base.logits` in place of a real model's hidden states; its cache stays."""
    positions = options.get("position_ids")
    if positions is None:
        positions = torch.arange(output.last_hidden_state.shape[1])[None]
    output.last_hidden_state = base.logits[positions]
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
    """A policy with these logits `[positions, V]` beside a random reward model."""
    import model_builders as build

    policy = policy_from(build.tiny("policy", tokenizer).eval(), tokenizer)
    judge = build.tiny("process", tokenizer).eval()
    policy.base.register_buffer("logits", logits, persistent=False)
    policy.base.register_forward_hook(_write, with_kwargs=True)
    written = replace(policy, head=lambda states: states)
    return Pair(written, reward_from(judge, tokenizer, policy))


def served(pair: Pair) -> Callable[[dict[str, Any]], Answer]:
    """The greedy policy behind a completions API that stops as vLLM does."""

    def complete(body: dict[str, Any]) -> Answer:
        tokens: list[int] = []
        while len(tokens) < body["max_tokens"]:
            place = len(body["prompt"]) - 1 + len(tokens)
            tokens.append(int(pair.policy.base.logits[place].argmax()))
            hidden = body.get("skip_special_tokens", True)
            text = pair.policy.decode(tokens, special=not hidden)
            ends = tokens[-1] in body.get("stop_token_ids", [])
            if ends or any(stop in text for stop in body.get("stop", [])):
                return choice(tokens)
        return choice(tokens, "length")

    return complete


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
