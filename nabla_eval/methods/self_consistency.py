"""Self-consistency: the answer that most of n samples reach (Wang et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field

from nabla_eval.methods.answers import majority
from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.pool import Pool
from nabla_eval.options import Budget, Sampling, require
from nabla_eval.requests import Method, Problem


@dataclass(frozen=True, kw_only=True)
class SelfConsistency:
    """Options of self-consistency."""

    n: int = 8
    sampling: Sampling = field(default_factory=Sampling)
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "an integer >= 1")


def self_consistency(problem: Problem, config: SelfConsistency) -> Method:
    """A sample of the largest group of equivalent answers: the first in its usual spelling.

    Samples without an answer do not vote; among groups of one size the one seen first wins.
    """
    pool = Pool(problem)
    ended = yield from unless_cut(pool.draw(config.n, config.sampling))
    return pool.outcome(majority(pool.texts), ended or "done")
