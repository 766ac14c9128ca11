"""Float64 all the way through, for the claims that are checked to the last digit.

transformers' RMSNorm computes in float32 whatever its input (right for bfloat16, where it widens;
in a float64 model it narrows): results then carry 1e-7 of noise that depends on the batch, and
finite differences do not converge. A float64 model gets the same formula in its own precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# How families write the gain: Llama and Qwen use the weight, Gemma one plus it.
_GAINS = (lambda weight: weight, lambda weight: 1.0 + weight)
_NO_GAIN = (lambda weight: 1.0,)  # Falcon Mamba's weight is a placeholder, of another width


def widen_norms(model: torch.nn.Module) -> int:
    """Let every RMSNorm of a float64 model compute in float64; returns how many were found.

    A module is replaced only where the formula reproduces it to float32 accuracy.
    """
    return sum(_widen(module) for module in model.modules() if _is_rms_norm(module))


def _is_rms_norm(module: torch.nn.Module) -> bool:
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "weight")


@torch.no_grad()
def _widen(module: Any) -> bool:
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    weight = module.weight
    if epsilon is None or weight.dtype != torch.float64:
        return False
    probe = torch.linspace(-1, 2, weight.numel(), dtype=weight.dtype, device=weight.device)[None]
    expected = module(probe)
    for gain in _GAINS if isinstance(module.weight, torch.nn.Parameter) else _NO_GAIN:

        def forward(x: Tensor, gain: Any = gain) -> Tensor:
            return (
                gain(module.weight) * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
            )

        if torch.allclose(forward(probe), expected, rtol=1e-5, atol=1e-6):
            module.forward = forward
            return True
    return False
