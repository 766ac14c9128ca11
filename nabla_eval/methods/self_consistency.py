"""Self-consistency: the answer that most of n samples reach (Wang et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from nabla_eval.methods.answers import majority
from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.pool import ONE_SAMPLE, Pool
from nabla_eval.options import Budget, Sampling
from nabla_eval.protocol import Method, Problem
from nabla_eval.validation import Count


@dataclass(frozen=True, kw_only=True)
class SelfConsistency(Sampling, Budget):
    """Options of self-consistency."""

    n: Count = 8

    @property
    def idle(self) -> str | None:
        return ONE_SAMPLE if self.n == 1 else super().idle


def self_consistency(problem: Problem, config: SelfConsistency) -> Method:
    """A sample of the largest group of equivalent answers: the first in its usual spelling.

    Samples without an answer do not vote; among groups of one size the one seen first wins.
    """
    pool = Pool(problem)
    ended = yield from unless_cut(pool.draw(config.n, config.sampling))
    return pool.outcome(majority(pool.texts), ended or "done")
