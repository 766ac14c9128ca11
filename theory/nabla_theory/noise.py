"""Keyed noise: every draw is a pure function of (seed, stream, step)."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

DTYPE = torch.float64


def generator(seed: int, stream: str, step: int = 0) -> np.random.Generator:
    """A counter-based generator (Philox 4x64) for one step of one stream.

    Seed and stream give the key, the step sets the counter: steps of a stream lie 2^128 blocks
    apart, so they never overlap, and any of them can be drawn without those before it.
    """
    if step < 0:
        raise ValueError(f"A step of a noise stream is at least 0, got {step}.")
    digest = blake2b(f"{seed}/{stream}".encode(), digest_size=16).digest()
    key = int.from_bytes(digest, "little")
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, step, 0]))


def normal(
    seed: int, stream: str, step: int, shape: tuple[int, ...], device: str = "cpu"
) -> Tensor:
    """Standard normal float64 numbers of `shape`; the same numbers on every device."""
    draw = generator(seed, stream, step).standard_normal(shape)
    return torch.from_numpy(np.asarray(draw)).to(device)


def uniform(
    seed: int, stream: str, step: int, shape: tuple[int, ...], device: str = "cpu"
) -> Tensor:
    """Uniform float64 numbers in [0, 1) of `shape`; the same numbers on every device."""
    draw = generator(seed, stream, step).random(shape)
    return torch.from_numpy(np.asarray(draw)).to(device)
