"""Tiny random-weight checkpoints and synthetic tokenizers that several tests use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

QWEN25, QWEN3, LLAMA = "qwen2.5-7b-instruct", "qwen3-4b", "llama-3.2-3b-instruct"

WORDS = [*"0123456789", *"+-*/=?;,", "\n", " ", *"abcdefgh"]
SPECIAL = ["<eos>", "<pad>", "<unk>"]
CHAT = (
    "{% for m in messages %}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.3,
}
AUTO = {
    "policy": AutoModelForCausalLM,
    "outcome": AutoModelForSequenceClassification,
    "process": AutoModelForTokenClassification,
}


def word_tokenizer(
    words: Sequence[str] = WORDS, chat: str | None = CHAT, **options: Any
) -> PreTrainedTokenizerFast:
    """One token per character of `words`, ids in their order, then the special ones."""
    tokens = [*words, *SPECIAL]
    core = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        **options,
    )
    tokenizer.chat_template = chat
    return tokenizer


def tiny(
    kind: str,
    tokenizer: Any,
    family: str = "qwen2",
    seed: int = 0,
    rows: int | None = None,
    dtype: torch.dtype = torch.float64,
    **more: Any,
) -> Any:
    """A tiny random model; `kind` is policy, outcome or process."""
    torch.manual_seed(seed)
    options = {**TINY, "vocab_size": rows or len(tokenizer), "max_position_embeddings": 512}
    if kind != "policy":
        options["num_labels"] = 1
    config = AutoConfig.for_model(
        family,
        **{
            **options,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **more,
        },
    )
    return AUTO[kind].from_config(config, dtype=dtype)


def save(folder: Path, kind: str, tokenizer: Any, family: str = "qwen2", **more: Any) -> Path:
    """A checkpoint folder of such a model with its tokenizer."""
    tiny(kind, tokenizer, family, **more).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    """Change entries of a saved config.json."""
    edit_json(folder / "config.json", **changes)


def edit_json(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
