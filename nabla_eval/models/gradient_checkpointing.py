"""Gradient checkpointing: a layer's activations are made again in the backward pass.

What is kept for the backward pass falls from everything inside a layer to its input, for one more
forward pass. transformers' own switch works only while training, and drops the prefix's keys and
values; this one leaves both as they are and touches no pass without gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from nabla_eval.errors import ModelError
from nabla_eval.models.pair import Pair


def checkpoint_gradients(pair: Pair) -> Pair:
    """Switch it on, in place, in every layer of both models; returns the pair.

    Raises `ModelError` for a model whose layers transformers does not mark as recomputable.
    """
    for model in (pair.policy, pair.reward):
        if model is not None and not sum(map(_recompute, model.base.modules())):
            raise ModelError(
                f"{model.name} has no layers that can be recomputed. Leave gradient_checkpointing "
                "out; a smaller max_batch_tokens saves memory too."
            )
    return pair


def recomputes(base: torch.nn.Module) -> bool:
    """Return whether it is on in a model."""
    return any(hasattr(module, "_nabla_recomputed") for module in base.modules())


def _recompute(module: Any) -> bool:
    """Make a layer's forward pass recomputable, once; False for a module that is no layer."""
    if not isinstance(module, GradientCheckpointingLayer):
        return False
    layer: Any = module
    if not hasattr(layer, "_nabla_recomputed"):
        own = layer.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return own(*args, **kwargs)
            # No layer draws random numbers here: the models are in evaluation mode.
            return checkpoint(own, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        layer.forward = forward
        layer._nabla_recomputed = True
    return True
