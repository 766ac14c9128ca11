"""What tells pairs of models apart: in traces, in run folders, in a probe's folder."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import torch

from nabla_eval.models.pair import Pair

_SAMPLES = 64  # numbers of each tensor that go into a fingerprint


def identity(pair: Pair) -> dict[str, Any]:
    """Return names and fingerprints of the models, and the policy's dtype."""
    models: dict[str, Any] = {
        "policy": pair.policy.name,
        "policy_hash": fingerprint(pair.policy),
        "dtype": str(pair.policy.embedding.dtype).removeprefix("torch."),
    }
    if pair.reward is not None:
        models |= {"reward": pair.reward.name, "reward_hash": fingerprint(pair.reward)}
    return models


def fingerprint(model: Any) -> str:
    """Return a short hash of a model's shapes and of some numbers of each of its tensors.

    Training moves every tensor nearly everywhere, so a few numbers tell two checkpoints apart;
    hashing all of them would take minutes on large ones. Depends on the dtype.
    """
    digest = hashlib.blake2b(digest_size=8)
    tensors = [("embedding", model.embedding), *model.base.named_parameters()]
    linear = inspect.getattr_static(model.head, "linear", None)
    if isinstance(linear, torch.nn.Module):
        tensors += linear.named_parameters(prefix="head")
    for name, tensor in tensors:
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if tensor.device.type != "meta" and tensor.numel():
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // _SAMPLES)]
            digest.update(sample.double().cpu().numpy().tobytes())
    return digest.hexdigest()
