"""Peak memory of one response's gradient, beyond what was held before: in a process of its own.

    python reports/benchmarks/peak_memory.py refine 512 152064

prints the bytes that the gradient passes, 20 steps and the draw at one position take (`refine`), or
the gradient norms of all positions (`norms`), of a response of 512 tokens. Linux only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from random_pairs import Size, random_pair, random_problems

from nabla_eval.engine.execute import Executor
from nabla_eval.engine.teacher_force import teacher_force
from nabla_eval.methods.registry import configure
from nabla_eval.models.pair import Pair
from nabla_eval.protocol import Differentiate, Refine, Request

SLIM = Size(layers=1, hidden=32, intermediate=64, heads=2, key_heads=2, head=16)


def asked(pair: Pair, what: str, length: int) -> Request:
    """A request about a response that was written elsewhere."""
    config = configure("nabla", {"update": "first"})
    (problem,) = random_problems(pair, [length])
    tokens = tuple(2 + 7 * i % (pair.policy.vocabulary - 2) for i in range(length))
    (trajectory,) = teacher_force(pair.policy, [(problem, tokens)])
    if what == "norms":
        return Differentiate(problem, trajectory, 0, config.dto, rows=tuple(range(length)))
    keys = (problem.key / "resample",)
    return Refine(problem, trajectory, 0, keys, config.drawing, config.dto, config.relaxation)


def status(field: str) -> int:
    """Bytes that Linux names so in the status of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def peak(what: str, length: int, vocabulary: int) -> int:
    """Bytes that a request takes at its peak."""
    pair, _ = random_pair(vocabulary=vocabulary, policy=SLIM, reward=SLIM)
    execute = Executor(pair)
    execute([asked(pair, what, 8)])  # what the first call of its kind sets up
    request = asked(pair, what, length)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins here
    before = status("VmRSS")
    execute([request])
    return status("VmHWM") - before


def main(arguments: Sequence[str]) -> None:
    what, length, vocabulary = arguments
    torch.set_num_threads(1)
    print(peak(what, int(length), int(vocabulary)))


if __name__ == "__main__":
    main(sys.argv[1:])
