"""Pairs of a chosen size with random weights, whose responses are exactly as long as asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from nabla_eval.models.load import policy_from, reward_from
from nabla_eval.models.pair import Pair
from nabla_eval.protocol import Problem
from nabla_eval.randomness import Key


@dataclass(frozen=True)
class Size:
    """Shape of a decoder."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head: int
    tied: bool = True

    def options(self, vocabulary: int, context: int) -> dict[str, Any]:
        return {
            "vocab_size": vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "max_position_embeddings": context,
            "tie_word_embeddings": self.tied,
            "pad_token_id": 0,
            "eos_token_id": 1,
        }


SMALL = Size(2, 64, 128, 4, 4, 16)
# As published in the configs of Qwen2.5-0.5B-Instruct, Qwen2.5-7B-Instruct and Qwen3-4B.
QWEN2_5_HALF_B = Size(24, 896, 4864, 14, 2, 64)
QWEN2_5_7B = Size(28, 3584, 18944, 28, 4, 128, tied=False)
QWEN3_4B = Size(36, 2560, 9728, 32, 8, 128)


def character_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token a character, from U+20002 on; no vocabulary is too large for that."""
    characters = {chr(0x20000 + i): i for i in range(2, vocabulary)}
    raw = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, **characters}, unk_token="<pad>"))
    raw.pre_tokenizer = Split("", "isolated")
    raw.decoder = Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>")


def random_pair(
    vocabulary: int = 512,
    policy: Size = SMALL,
    reward: Size = SMALL,
    context: int = 4096,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Pair, Any]:
    """A pair whose policy never ends a response on its own, and the policy as transformers' model.

    A Qwen2 policy and a Qwen3 outcome reward model, with random weights of a fixed seed.
    """
    tokenizer = character_tokenizer(vocabulary)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM._from_config(
            Qwen2Config(**policy.options(vocabulary, context)), dtype=dtype
        )
        judge = Qwen3ForSequenceClassification._from_config(
            Qwen3Config(**reward.options(vocabulary, context), head_dim=reward.head, num_labels=1),
            dtype=dtype,
        )
    endless = replace(policy_from(model.eval(), tokenizer), end_ids=(vocabulary,))
    return Pair(endless, reward_from(judge.eval(), tokenizer, endless)), model


def random_problems(pair: Pair, lengths: Sequence[int], prompt: int = 16) -> list[Problem]:
    """Problems whose responses come to these lengths."""
    words = pair.policy.vocabulary - 2
    return [
        pair.problem(
            [2 + (31 * i + 7 * j) % words for j in range(prompt)],
            Key.root(0) / "random" / i,
            max_new_tokens=length,
            id=f"random/{i}/0",
        )
        for i, length in enumerate(lengths)
    ]
