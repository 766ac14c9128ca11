"""Which GPUs each process of a sweep sees."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import takewhile

from nabla_eval.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices(asked: str | None, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs that processes can share out, by the names of CUDA_VISIBLE_DEVICES.

    None where a sweep's `device` is a CPU. Raises `ConfigError` where it is one GPU by number.
    """
    if asked is not None and asked != "cuda":
        if not asked.startswith("cuda"):
            return []
        raise ConfigError(
            f"device: {asked} is one GPU, and --jobs shares out all that are visible. Write "
            f"`device: cuda`, or choose them: {VISIBLE}=0,1 nabla-eval sweep ..."
        )
    named = environ.get(VISIBLE)
    if named is not None:  # CUDA ignores what stands after a number that is no device
        names = (name.strip() for name in named.split(","))
        return list(takewhile(lambda name: name not in ("", "-1"), names))
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def shares(names: Sequence[str], jobs: int) -> list[str]:
    """Return each job's CUDA_VISIBLE_DEVICES: neighbours as evenly as can be, or one in turn.

    Empty where there are no GPUs.
    """
    if jobs >= len(names):
        return [names[job % len(names)] for job in range(jobs)] if names else []
    ends = [round(job * len(names) / jobs) for job in range(jobs + 1)]
    return [",".join(names[ends[job] : ends[job + 1]]) for job in range(jobs)]
