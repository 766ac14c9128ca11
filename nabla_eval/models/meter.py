"""Reads the most memory that a run took, on whatever its models are."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from nabla_eval.cost.peak import PeakMemory
from nabla_eval.models.pair import Pair


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
