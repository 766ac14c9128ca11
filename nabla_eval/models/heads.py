"""Taking a transformers model apart: base, head and input embedding (DESIGN 3.1, 6).

The engine feeds embeddings to the base and hidden states to the head, so both halves must add up to
the model. What architectures put between them (soft caps, scales) is read from the config, and the
sum is verified on a few tokens: a model that does not add up is refused, not approximated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from nabla_eval.errors import ModelError, NablaError
from nabla_eval.models.batch_probe import probe

# Relative error allowed between a model and its two halves: both run the same kernels on the same
# input, so only the reward head's float32 (against the model's own dtype) makes a difference.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
_AHEAD = 1e-5  # of scores with and without a later token: some attentions take float32 softmaxes
# Soft caps of logits: Gemma 2, RecurrentGemma, xLSTM.
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


@dataclass(frozen=True)
class LogitHead:
    """Hidden states [..., D] to logits [..., V]: a linear map, a scale, a soft cap."""

    linear: torch.nn.Module
    device: torch.device
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, states: Tensor) -> Tensor:
        logits = self.linear(states)
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits.to(self.device)


@dataclass(frozen=True)
class ScoreHead:
    """Hidden states [..., D] to scores [...], in float32 or better.

    bfloat16 has 8 bits: scores near 16 would fall on steps of 0.06, and ties reject candidates.
    `contrast` is for two labels, wrong and right: "logit" gives their log-odds, "probability" the
    probability of right.
    """

    linear: torch.nn.Linear
    device: torch.device
    contrast: Literal["logit", "probability"] | None = None

    def __call__(self, states: Tensor) -> Tensor:
        labels = self.labels(states)
        if self.contrast is None:
            return labels[..., 0]
        log_odds = labels[..., 1] - labels[..., 0]
        return log_odds if self.contrast == "logit" else torch.sigmoid(log_odds)

    def labels(self, states: Tensor) -> Tensor:
        """Return one number per label, [..., 1 or 2]."""
        weight, bias = self.linear.weight, self.linear.bias
        dtype = torch.promote_types(weight.dtype, torch.float32)
        scores = torch.nn.functional.linear(
            states.to(weight.device, dtype),
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
        )
        return scores.to(self.device)


@dataclass(frozen=True)
class Halves:
    """A model as base and head, with its input embedding table."""

    base: torch.nn.Module  # -> .last_hidden_state [B, L, D]
    head: LogitHead | ScoreHead
    embedding: Tensor  # [own vocabulary, D], what the base takes as inputs_embeds
    context: int
    parameters: int  # used per token: all but the lookup table

    def states(self, ids: Tensor) -> Tensor:
        """Return last hidden states [B, L, D] of ids [B, L]."""
        output = self.base(inputs_embeds=self.embedding[ids], use_cache=False)
        states: Tensor = output.last_hidden_state
        return states


@torch.no_grad()
def split_policy(model: Any, name: str) -> Halves:
    """Return a causal language model's halves. Raises `ModelError` if they do not add up to it."""
    base, table = _prepare(model, name)
    linear = model.get_output_embeddings()
    if linear is None:
        raise _unknown(model, name, "has no output embeddings")
    config = model.config.get_text_config()
    scale = 1.0 / float(getattr(config, "logits_scaling", 1.0))  # Granite
    scale *= float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
    cap = next((cap for name in _CAPS if (cap := getattr(config, name, None))), None)
    head = LogitHead(linear, table.device, scale, cap)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if linear.weight is not model.get_input_embeddings().weight:
        parameters -= table.numel()
    halves = Halves(base, head, table, context_length(config), parameters)
    ids, rows = _few_tokens(model), table.shape[0]
    whole = model(input_ids=ids, use_cache=False).logits
    if whole.shape[-1] != rows:
        raise _unknown(model, name, f"has {rows} input and {whole.shape[-1]} output tokens")
    _compare(model, name, head(halves.states(ids)), whole, "logits")
    probe(base, rows, name)
    return halves


@torch.no_grad()
def split_reward(
    model: Any, name: str, score: Literal["logit", "probability"] = "logit"
) -> tuple[Halves, bool]:
    """Return a reward model's halves, and whether it is a process (token) one.

    Raises `ModelError` for a wrong number of labels, for a model that looks ahead, and where the
    halves do not add up to the model.
    """
    process = type(model).__name__.endswith("ForTokenClassification")
    base, table = _prepare(model, name)
    linear = getattr(model, "score", None) or getattr(model, "classifier", None)
    if not isinstance(linear, torch.nn.Linear):
        raise _unknown(model, name, "has no linear `score` head")
    check_labels(name, linear.out_features, process)
    head = ScoreHead(linear, table.device, score if linear.out_features == 2 else None)
    parameters = sum(parameter.numel() for parameter in model.parameters()) - table.numel()
    context = context_length(model.config.get_text_config())
    halves = Halves(base, head, table, context, parameters)
    ids = _few_tokens(model)
    whole = model(input_ids=ids).logits
    states = halves.states(ids)
    ours = head.labels(states)
    _compare(model, name, ours if process else ours[:, -1], whole, "scores")
    earlier = head.labels(halves.states(ids[:, :-1]))
    if not _close(earlier, ours[:, :-1], states.dtype, at_least=_AHEAD):
        raise ModelError(
            f"The reward model {name} ({type(model).__name__}) looks ahead: a token's score "
            "depends on later tokens. Use one with a decoder-only (causal) body."
        )
    probe(base, table.shape[0], name)
    return halves, process


def check_labels(name: str, labels: int, process: bool) -> None:
    """Raise `ModelError` for a classifier whose labels are no reward."""
    if labels not in ((1, 2) if process else (1,)):
        wanted = "1 (a score) or 2 (wrong, right)" if process else "1"
        raise ModelError(
            f"The reward model {name} has {labels} labels; {wanted} is needed. A classifier of "
            "another kind is no reward model: give one that was trained to score responses."
        )


def context_length(config: Any) -> int:
    """Return the longest input a config allows, in tokens."""
    lengths = (getattr(config, name, None) for name in _LENGTHS)
    return next((int(length) for length in lengths if length), 2048)


@contextmanager
def faults_explained(model: Any, name: str) -> Iterator[None]:
    """Turn what a model's own code raises into a `ModelError`."""
    try:
        yield
    except (NablaError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ModelError(
            f"{name} ({type(model).__name__}) fails on a few tokens in {dtype}: {what}. Try "
            "another dtype or attn_implementation (float32 and sdpa suit most), or another model."
        ) from error


def _prepare(model: Any, name: str) -> tuple[torch.nn.Module, Tensor]:
    """Freeze the model; return its base and the embeddings as the base takes them."""
    model.eval()
    model.requires_grad_(False)
    base = model.base_model
    if base is model:
        raise _unknown(model, name, "has no base model")
    lookup = base.get_input_embeddings()
    scale = getattr(lookup, "embed_scale", None)  # Gemma 3 scales inside the lookup
    table = lookup.weight
    if scale is not None:
        table = table * torch.as_tensor(scale).to(table)
    if table.dtype == torch.float64:
        widen_norms(base)
    return base, table.detach()


def _few_tokens(model: Any) -> Tensor:
    """Return different token ids, none of them padding: classifiers pool the last other token."""
    table = model.get_input_embeddings().weight
    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    ids = [index for index in range(min(len(table), 12)) if index != pad][:8]
    return torch.tensor([ids], device=table.device)


def _compare(model: Any, name: str, ours: Tensor, whole: Tensor, what: str) -> None:
    if bool(whole.isnan().any()):
        raise ModelError(
            f"{name} ({type(model).__name__}) gives nan for {what} of a few tokens, in "
            f"{str(whole.dtype).removeprefix('torch.')}. Try a wider dtype (dtype=float32, "
            "reward_dtype=float32), or download the checkpoint again."
        )
    if ours.shape == whole.shape and _close(ours, whole, whole.dtype):
        return
    error = "shapes" if ours.shape != whole.shape else f"{(ours - whole.to(ours)).abs().max():.3g}"
    raise _unknown(model, name, f"{what} differ from its head on its base (by {error})")


def _close(ours: Tensor, whole: Tensor, dtype: torch.dtype, at_least: float = 0.0) -> bool:
    scale = max(1.0, float(whole.abs().max()))
    difference = (ours - whole.to(ours.device, ours.dtype)).abs().max()
    return bool(difference <= max(at_least, TOLERANCE.get(dtype, 1e-4)) * scale)


def _unknown(model: Any, name: str, fault: str) -> ModelError:
    return ModelError(
        f"{name} ({type(model).__name__}) cannot be taken apart into base and head: {fault}. "
        "Use a Qwen2, Qwen3, Llama, Mistral, Gemma or GPT-2 model."
    )


# --- float64 all the way through ----------------------------------------------------------------


@torch.no_grad()
def widen_norms(model: torch.nn.Module) -> None:
    """Let every RMSNorm of a float64 model compute in float64.

    transformers' computes in float32 whatever its input: right for bfloat16, where it widens, but
    in a float64 model results then carry 1e-7 of noise that depends on the batch, and finite
    differences do not converge. A module is replaced only where the formula reproduces it to
    float32 accuracy.
    """
    for norm in model.modules():
        weight = getattr(norm, "weight", None)
        epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
        named = type(norm).__name__.endswith("RMSNorm")
        if not named or epsilon is None or weight is None or weight.dtype != torch.float64:
            continue
        few = torch.linspace(-1, 2, weight.numel(), dtype=weight.dtype, device=weight.device)[None]
        expected = norm(few)
        # Llama and Qwen use the weight, Gemma one plus it; Falcon Mamba's is a placeholder, of
        # another width.
        own = isinstance(weight, torch.nn.Parameter)
        for gain in (weight, 1.0 + weight) if own else (torch.ones_like(weight[:1]),):
            forward = partial(_rms_norm, gain=gain, epsilon=epsilon)
            if torch.allclose(forward(few), expected, rtol=1e-5, atol=1e-6):
                norm.forward = forward
                break


def _rms_norm(x: Tensor, *, gain: Tensor, epsilon: float) -> Tensor:
    return gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
