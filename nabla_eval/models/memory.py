"""How much memory one gradient pass needs: plain arithmetic on a config, stated term by term.

Weights get no gradient, so a linear layer keeps nothing for the backward pass: what is kept per
token and layer are the inputs of the two norms (float32), q, k, v and the attention's output, and
three MLP vectors. Checked against what autograd keeps of Qwen2, Qwen3 and Llama models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIB = 2**30
CHUNK = 2**25  # elements of rows x V that the engine forms at once


@dataclass(frozen=True)
class Term:
    """One addend, in bytes, and where it comes from."""

    name: str
    bytes: int
    arithmetic: str


@dataclass(frozen=True)
class Memory:
    """What one model needs on its device."""

    terms: tuple[Term, ...]

    @property
    def bytes(self) -> int:
        return sum(term.bytes for term in self.terms)


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that memory depends on."""

    layers: int
    hidden: int
    intermediate: int
    query: int  # heads x head size
    key: int  # key-value heads x head size
    heads: int
    key_heads: int
    head_norms: bool  # Qwen3 and Gemma 3 normalise q and k
    rows: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Sizes from a config; a GPT-2's MLP counts as four times its hidden size."""
        config = config.get_text_config()
        hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
        key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        size = int(getattr(config, "head_dim", None) or hidden // heads)
        return cls(
            layers=int(config.num_hidden_layers),
            hidden=hidden,
            intermediate=int(getattr(config, "intermediate_size", None) or 4 * hidden),
            query=heads * size,
            key=key_heads * size,
            heads=heads,
            key_heads=key_heads,
            head_norms=config.model_type in ("qwen3", "qwen3_moe", "gemma3", "gemma3_text"),
            rows=int(config.vocab_size),
        )


def kept_per_token(shape: Shape, itemsize: int) -> int:
    """Bytes that autograd keeps per token and layer, with an attention that keeps no scores."""
    norms = 2 * (4 * shape.hidden + 4)
    attention = itemsize * (2 * shape.query + 2 * shape.key) + 4 * shape.heads
    if shape.head_norms:
        norms += 4 * (shape.query + shape.key) + 4 * (shape.heads + shape.key_heads)
    return norms + attention + 3 * itemsize * shape.intermediate


@dataclass(frozen=True)
class Use:
    """Gradients of `batch` sequences of `tokens` tokens, prompt included."""

    tokens: int
    batch: int
    itemsize: int  # bytes per number of the model's dtype

    @property
    def count(self) -> int:
        return self.batch * self.tokens

    def __str__(self) -> str:
        return f"{self.batch} × {self.tokens:,} tokens"


def of_policy(shape: Shape, parameters: int, use: Use) -> Memory:
    """Memory of the policy: also the cache of as many rollouts, and rows of V numbers."""
    cache = 2 * shape.layers * shape.key * use.itemsize
    rows = min(CHUNK, use.count * shape.rows)
    return Memory(
        (
            *_pass(shape, parameters, use),
            Term("key-value cache of rollouts", use.count * cache, f"{use} × {cache:,} bytes"),
            Term("rows over the vocabulary", 3 * 4 * rows, f"3 × {rows:,} numbers × 4 bytes"),
        )
    )


def of_reward(shape: Shape, parameters: int, use: Use, copied: bool) -> Memory:
    """Memory of the reward model; `copied` where its table is re-indexed by the policy's ids."""
    terms = _pass(shape, parameters, use)
    if copied:
        table = shape.rows * shape.hidden * use.itemsize
        made_of = f"{shape.rows:,} rows × {shape.hidden:,} × {use.itemsize} bytes"
        terms = (*terms, Term("re-indexed embedding table", table, made_of))
    return Memory(terms)


def _pass(shape: Shape, parameters: int, use: Use) -> tuple[Term, ...]:
    size, kept = use.itemsize, kept_per_token(shape, use.itemsize)
    return (
        Term("weights", parameters * size, f"{parameters:,} parameters × {size} bytes"),
        Term(
            "kept for the backward pass",
            use.count * shape.layers * kept,
            f"{use} × {shape.layers} layers × {kept:,} bytes",
        ),
        Term(
            "in use during it",
            4 * use.count * shape.intermediate * size,
            f"{use} × 4 × {shape.intermediate:,} × {size} bytes",
        ),
    )


def parameter_count(config: Any, auto: Any) -> int:
    """Parameters of a config's model, counted without making it."""
    import torch

    with torch.device("meta"):
        model = auto.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())
