"""Greedy decoding: the most likely token at every position."""

from __future__ import annotations

from dataclasses import dataclass

from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.pool import Pool
from nabla_eval.options import Budget, Sampling
from nabla_eval.protocol import Method, Problem


@dataclass(frozen=True, kw_only=True)
class Greedy(Budget):
    """Options of greedy decoding: what it may spend."""


def greedy(problem: Problem, config: Greedy) -> Method:
    """One response at temperature 0."""
    pool = Pool(problem)
    ended = yield from unless_cut(pool.draw(1, Sampling(temperature=0.0)))
    return pool.outcome(0, ended or "done")
