"""How much memory one gradient pass needs, by plain arithmetic; and the peak that a run took.

Weights get no gradient, so a linear layer keeps nothing for the backward pass: what is kept per
token and layer are the inputs of the two norms (float32), q, k, v and the attention's output, and
three MLP vectors. With a mask (a batch, or a prefix before the first wanted gradient) transformers
repeats keys and values for every query head, and the mask is kept as numbers. Checked to the byte
against what autograd keeps of Qwen2, Qwen3 and Llama models.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from nabla_eval.cost.peak import PeakMemory
from nabla_eval.models.pair import Pair

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
    """The memory that one model needs on its device."""

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
        """Sizes from a config; a GPT-2's MLP counts as four times its hidden size.

        Of sizes that differ by layer the largest counts. A layer without attention (Mamba) counts
        as one with a head of the hidden size: more than it keeps.
        """
        config = config.get_text_config()
        hidden = _size(config, "hidden_size") or 0
        heads = _size(config, "num_attention_heads") or 1
        key_heads = _size(config, "num_key_value_heads") or heads
        size = _size(config, "head_dim") if heads > 1 else None
        size = size or hidden // heads
        return cls(
            layers=_size(config, "num_hidden_layers") or 1,
            hidden=hidden,
            intermediate=_size(config, "intermediate_size") or 4 * hidden,
            query=heads * size,
            key=key_heads * size,
            heads=heads,
            key_heads=key_heads,
            head_norms=config.model_type in ("qwen3", "qwen3_moe", "gemma3", "gemma3_text"),
            rows=int(config.vocab_size),
        )


def _size(config: Any, name: str) -> int | None:
    """A size that a config names, the largest where it differs by layer."""
    value = getattr(config, name, None)
    if isinstance(value, list | tuple):
        value = max((size for size in value if size is not None), default=None)
    return None if value is None else int(value)


@dataclass(frozen=True)
class Use:
    """Gradients of `batch` sequences of `tokens` tokens, prompt included.

    Those of the first `prefix` tokens are not wanted. `checkpointing` keeps a layer's input only.
    """

    tokens: int
    batch: int
    itemsize: int  # bytes per number of the model's dtype
    prefix: int = 0
    checkpointing: bool = False

    @property
    def suffix(self) -> int:
        return self.tokens - self.prefix

    @property
    def count(self) -> int:
        return self.batch * self.tokens

    @property
    def masked(self) -> bool:
        """Return whether attention needs an explicit mask."""
        return self.batch > 1 or self.prefix > 0

    def __str__(self) -> str:
        return f"{self.batch} × {self.tokens:,} tokens"


def kept_per_layer(shape: Shape, use: Use) -> int:
    """Bytes that autograd keeps per layer, with an attention that keeps no scores."""
    size = use.itemsize
    norms = 2 * (4 * shape.hidden + 4)
    if shape.head_norms:
        norms += 4 * (shape.query + shape.key) + 4 * (shape.heads + shape.key_heads)
    own = norms + size * 2 * shape.query + 4 * shape.heads + 3 * size * shape.intermediate
    keys = 2 * size * (shape.query if use.masked else shape.key)
    mask = size * use.suffix * use.tokens if use.masked else 0
    return use.batch * (use.suffix * own + use.tokens * keys + mask)


def kept(shape: Shape, use: Use) -> int:
    """Bytes that autograd keeps of all layers at the peak of the backward pass."""
    if not use.checkpointing:
        return shape.layers * kept_per_layer(shape, use)
    inputs = use.batch * use.suffix * shape.hidden * use.itemsize
    return shape.layers * inputs + kept_per_layer(shape, use)  # of the layer being made again


def cache_per_token(shape: Shape, itemsize: int) -> int:
    """Bytes of a token's keys and values in all layers."""
    return 2 * shape.layers * shape.key * itemsize


def of_policy(shape: Shape, parameters: int, use: Use) -> Memory:
    """Memory of the policy: also the cache of as many rollouts, and rows of V numbers."""
    cache = cache_per_token(shape, use.itemsize)
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


def of_dto(vocabulary: int, rows: int) -> Memory:
    """DTO with `rows` free rows of logits: float32 state, and what a step makes on the way.

    The state is the policy's logits, z, Adam's two moments, dL/dy, the result and the anchor.
    """
    state, part = rows * vocabulary, min(CHUNK, rows * vocabulary)
    return Memory(
        (
            Term("state of the free rows", 7 * 4 * state, f"7 × {state:,} numbers × 4 bytes"),
            Term("one step's temporaries", 10 * 4 * part, f"10 × {part:,} numbers × 4 bytes"),
        )
    )


def _pass(shape: Shape, parameters: int, use: Use) -> tuple[Term, ...]:
    size, layer = use.itemsize, kept_per_layer(shape, use)
    made_of = f"{shape.layers} layers × {layer:,} bytes"
    if use.checkpointing:
        made_of = f"{shape.layers} inputs of {shape.hidden:,} numbers a token + {layer:,} bytes"
    live = use.batch * use.suffix
    terms = [
        Term("weights", parameters * size, f"{parameters:,} parameters × {size} bytes"),
        Term("kept for the backward pass", kept(shape, use), f"{use}: {made_of}"),
        Term(
            "in use during it",
            4 * live * shape.intermediate * size,
            f"{use.batch} × {use.suffix:,} tokens × 4 × {shape.intermediate:,} × {size} bytes",
        ),
    ]
    if use.prefix:
        cache, count = cache_per_token(shape, size), use.batch * use.prefix
        made_of = f"{use.batch} × {use.prefix:,} tokens × {cache:,} bytes"
        terms.append(Term("key-value cache of the prefix", count * cache, made_of))
    return tuple(terms)


def parameter_count(config: Any, auto: Any) -> int:
    """Parameters of a config's model, counted without making it."""
    with torch.device("meta"):
        model = auto.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


# --- the peak of a run --------------------------------------------------------------------------


def devices(pair: Pair) -> set[torch.device]:
    """Where the weights of both models are."""
    bases = [pair.policy.base] + ([] if pair.reward is None else [pair.reward.base])
    return {parameter.device for base in bases for parameter in base.parameters()}


@dataclass(frozen=True)
class Meter:
    """Reads the peak of some devices from its making on."""

    gpus: tuple[torch.device, ...]

    @classmethod
    def start(cls, devices: Iterable[torch.device]) -> Meter:
        """Forget the GPUs' earlier peaks."""
        gpus = tuple(sorted({d for d in devices if d.type == "cuda"}, key=str))
        for gpu in gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        return cls(gpus)

    def read(self) -> PeakMemory | None:
        """The peak so far; None where the system does not tell."""
        if self.gpus:
            most = sum(torch.cuda.max_memory_allocated(gpu) for gpu in self.gpus)
            return PeakMemory(bytes=most, of="gpu")
        try:
            import resource
        except ImportError:  # Windows
            return None
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return PeakMemory(bytes=most * (1 if sys.platform == "darwin" else 1024), of="process")
