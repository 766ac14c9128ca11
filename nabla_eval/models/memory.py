"""Memory of gradient passes: how much one needs, how to need less, and the peak of a run.

Weights get no gradient, so a linear layer keeps nothing for the backward pass: what is kept per
token and layer are the inputs of the two norms (float32), q, k, v and the attention's output, and
three MLP vectors. With a mask (a batch, or a prefix before the first wanted gradient) transformers
repeats keys and values for every query head, and the mask is kept as numbers. Checked to the byte
against what autograd keeps of Qwen2, Qwen3 and Llama models.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from nabla_eval.cost.peak import PeakMemory
from nabla_eval.errors import ModelError
from nabla_eval.models.pair import Pair

GIB = 2**30
CHUNK = 2**25  # elements of rows x V that the engine forms at once
_HEAD_NORMS = ("qwen3", "qwen3_moe", "gemma3", "gemma3_text")  # these normalise q and k


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
    head_norms: bool
    rows: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Read the sizes of a config; a GPT-2's MLP counts as four times its hidden size.

        Of sizes that differ by layer the largest counts. A layer without attention (Mamba) counts
        as one with a head of the hidden size: more than it keeps.
        """
        config = config.get_text_config()

        def size(name: str) -> int | None:
            value = getattr(config, name, None)
            if isinstance(value, list | tuple):
                value = max((own for own in value if own is not None), default=None)
            return None if value is None else int(value)

        hidden = size("hidden_size") or 0
        heads = size("num_attention_heads") or 1
        key_heads = size("num_key_value_heads") or heads
        head = (size("head_dim") if heads > 1 else None) or hidden // heads
        return cls(
            layers=size("num_hidden_layers") or 1,
            hidden=hidden,
            intermediate=size("intermediate_size") or 4 * hidden,
            query=heads * head,
            key=key_heads * head,
            heads=heads,
            key_heads=key_heads,
            head_norms=config.model_type in _HEAD_NORMS,
            rows=int(config.vocab_size),
        )


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

    def __str__(self) -> str:
        return f"{self.batch} × {self.tokens:,} tokens"


def kept_per_layer(shape: Shape, use: Use) -> int:
    """Return the bytes that autograd keeps per layer, with an attention that keeps no scores."""
    size, masked = use.itemsize, use.batch > 1 or use.prefix > 0
    norms = 2 * (4 * shape.hidden + 4)
    if shape.head_norms:
        norms += 4 * (shape.query + shape.key) + 4 * (shape.heads + shape.key_heads)
    own = norms + size * 2 * shape.query + 4 * shape.heads + 3 * size * shape.intermediate
    keys = 2 * size * (shape.query if masked else shape.key)
    mask = size * use.suffix * use.tokens if masked else 0
    return use.batch * (use.suffix * own + use.tokens * keys + mask)


def kept(shape: Shape, use: Use) -> int:
    """Return the bytes that autograd keeps of all layers at the peak of the backward pass."""
    if not use.checkpointing:
        return shape.layers * kept_per_layer(shape, use)
    inputs = use.batch * use.suffix * shape.hidden * use.itemsize
    return shape.layers * inputs + kept_per_layer(shape, use)  # of the layer being made again


def cache_per_token(shape: Shape, itemsize: int) -> int:
    """Return the bytes of a token's keys and values in all layers."""
    return 2 * shape.layers * shape.key * itemsize


def of_policy(shape: Shape, parameters: int, use: Use) -> Memory:
    """Return the policy's memory: also the cache of as many rollouts, and rows of V numbers."""
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
    """Return the reward model's memory; `copied` if its table is re-indexed by policy ids."""
    terms = _pass(shape, parameters, use)
    if copied:
        table = shape.rows * shape.hidden * use.itemsize
        made_of = f"{shape.rows:,} rows × {shape.hidden:,} × {use.itemsize} bytes"
        terms.append(Term("re-indexed embedding table", table, made_of))
    return Memory(tuple(terms))


def _pass(shape: Shape, parameters: int, use: Use) -> list[Term]:
    size, layer = use.itemsize, kept_per_layer(shape, use)
    made_of = f"{shape.layers} layers × {layer:,} bytes"
    if use.checkpointing:
        made_of = f"{shape.layers} inputs of {shape.hidden:,} numbers a token + {layer:,} bytes"
    terms = [
        Term("weights", parameters * size, f"{parameters:,} parameters × {size} bytes"),
        Term("kept for the backward pass", kept(shape, use), f"{use}: {made_of}"),
        Term(
            "in use during it",
            4 * use.batch * use.suffix * shape.intermediate * size,
            f"{use.batch} × {use.suffix:,} tokens × 4 × {shape.intermediate:,} × {size} bytes",
        ),
    ]
    if use.prefix:
        cache = cache_per_token(shape, size)
        made_of = f"{use.batch} × {use.prefix:,} tokens × {cache:,} bytes"
        total = use.batch * use.prefix * cache
        terms.append(Term("key-value cache of the prefix", total, made_of))
    return terms


def parameter_count(config: Any, auto: Any) -> int:
    """Count the parameters of a config's model without making it."""
    with torch.device("meta"):
        model = auto.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


# --- gradient checkpointing ---------------------------------------------------------------------


def checkpoint_gradients(pair: Pair) -> Pair:
    """Let every layer of both models keep its input alone for the backward pass, in place.

    A layer's activations are then made again, for one more forward pass. transformers' own switch
    works only while training, and drops the prefix's keys and values; this one leaves both as they
    are and touches no pass without gradients. Raises `ModelError` for a model whose layers
    transformers does not mark as recomputable.
    """
    for model in (pair.policy, pair.reward):
        if model is not None and not recompute_layers(model.base):
            raise ModelError(
                f"{model.name} has no layers that can be recomputed. Leave gradient_checkpointing "
                "out; a smaller max_batch_tokens saves memory too."
            )
    return pair


def recomputes(base: torch.nn.Module) -> bool:
    """Return whether gradient checkpointing is on in a model."""
    return any(hasattr(module, "_nabla_recomputed") for module in base.modules())


def recompute_layers(base: torch.nn.Module) -> int:
    """Make the forward pass of every layer recomputable, once; return how many layers there are."""
    layers: list[Any] = [m for m in base.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers:
        if not hasattr(layer, "_nabla_recomputed"):
            layer.forward = _recomputed(layer.forward)
            layer._nabla_recomputed = True
    return len(layers)


def _recomputed(own: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return own(*args, **kwargs)
        # No layer draws random numbers here: the models are in evaluation mode.
        return checkpoint(own, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return forward


# --- the peak of a run --------------------------------------------------------------------------


def devices(pair: Pair) -> set[torch.device]:
    """Return where the weights of both models are."""
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
        """Return the peak so far; None where the system does not tell."""
        if self.gpus:
            most = sum(torch.cuda.max_memory_allocated(gpu) for gpu in self.gpus)
            return PeakMemory(bytes=most, of="gpu")
        try:
            import resource
        except ImportError:  # Windows
            return None
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return PeakMemory(bytes=most * (1 if sys.platform == "darwin" else 1024), of="process")
