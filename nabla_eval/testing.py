"""Helpers for tests of methods and engines: a tiny random pair, and an executor that counts.

In the package and not under tests/, so that whoever adds a method elsewhere can hold it to the
same contracts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2ForTokenClassification,
)

from nabla_eval.cost.ledger import Ledger
from nabla_eval.models.load import policy_from, reward_from
from nabla_eval.models.pair import Pair
from nabla_eval.protocol import Problem, Request
from nabla_eval.randomness import Key

CHAT = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def tiny_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token a character, from `a` (2) on, after `<pad>` (0) and `<eos>` (1); no spaces."""
    return _tokenizer({letter(i): i for i in range(2, vocabulary)}, "<pad>")


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each character of English prose, from id 2 on, and a plain chat template."""
    characters = ["\n", *map(chr, range(32, 127)), "<unk>"]
    ids = {character: i for i, character in enumerate(characters, 2)}
    return _tokenizer(ids, "<unk>", unk_token="<unk>", chat_template=CHAT)


def _tokenizer(ids: dict[str, int], unknown: str, **options: Any) -> PreTrainedTokenizerFast:
    raw = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, **ids}, unk_token=unknown))
    raw.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", **options
    )


def letter(token: int) -> str:
    """Text of a token id from 2 on."""
    return chr(ord("a") + token - 2) if token < 28 else chr(0x4E00 + token)


def tiny_pair(
    seed: int = 0,
    vocabulary: int = 11,
    process: bool = True,
    dtype: torch.dtype = torch.float64,
    chat: bool = False,
) -> Pair:
    """A random Qwen2 policy and reward model, with weights large enough to have opinions.

    With `chat`, one that can be asked in words (and answers in noise).
    """
    tokenizer = chat_tokenizer() if chat else tiny_tokenizer(vocabulary)
    vocabulary = len(tokenizer)

    def config(hidden: int, **options: Any) -> Qwen2Config:
        """Two layers of two heads, for the vocabulary of the tokenizer."""
        return Qwen2Config(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=2 * hidden,
            num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            max_position_embeddings=4096 if chat else 256, initializer_range=0.5,
            pad_token_id=0, eos_token_id=1, **options,
        )  # fmt: skip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config(16, tie_word_embeddings=True))
        kind = Qwen2ForTokenClassification if process else Qwen2ForSequenceClassification
        judge = kind(config(8, num_labels=1))
    for network in (model, judge):
        torch.nn.Module.to(network, dtype)
    policy = policy_from(model.eval(), tokenizer)
    return Pair(policy, reward_from(judge.eval(), tokenizer, policy))


def additive_pair(seed: int = 0, vocabulary: int = 30) -> Pair:
    """A random policy, and a reward to which every token adds its share: one that gradients climb.

    Attention that takes the mean of all tokens alike, and no feed-forward layer: only the last
    norm, and the last token's own share, are not linear in the tokens.
    """
    policy = tiny_pair(seed, vocabulary, dtype=torch.float32).policy
    one_score: dict[str, Any] = {"num_labels": 1}
    config = Qwen2Config(
        vocab_size=policy.vocabulary, hidden_size=32, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256,
        initializer_range=0.5, pad_token_id=0, **one_score,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        judge = Qwen2ForSequenceClassification(config)
        (layer,) = judge.model.layers
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.mlp.down_proj):
            part.weight.zero_()
    return Pair(policy, reward_from(judge.eval(), policy.tokenizer, policy))


def tiny_problems(
    pair: Pair, count: int, max_new_tokens: int = 8, seed: int = 0, **options: Any
) -> list[Problem]:
    """Prompts of two to four words, of different lengths so that batches are padded."""
    words = pair.policy.vocabulary - len(set(pair.policy.tokenizer.all_special_ids))
    return [
        pair.problem(
            pair.policy.decode([2 + (7 * i + 3 * j) % words for j in range(2 + i % 3)]),
            Key.root(seed) / "tiny" / i,
            max_new_tokens=max_new_tokens,
            id=f"tiny/{i}/0",
            **options,
        )
        for i in range(count)
    ]


class CountingExecutor:
    """Runs another executor and keeps its own count of what each problem was given."""

    def __init__(self, execute: Callable[[list[Request]], list[Any]]) -> None:
        self.execute = execute
        self.totals: dict[str, Ledger] = {}
        self.rounds = 0
        self.asked: list[tuple[Request, Any]] = []  # with what was answered

    def __call__(self, requests: list[Request]) -> list[Any]:
        results = self.execute(requests)
        self.rounds += 1
        for request, result in zip(requests, results, strict=True):
            self.asked.append((request, result))
            self.totals.setdefault(request.problem.id, Ledger()).add(result.cost)
        return results

    def of(self, kind: type) -> list[tuple[Any, Any]]:
        """Return the requests of one kind, each with its result."""
        return [pair for pair in self.asked if isinstance(pair[0], kind)]
