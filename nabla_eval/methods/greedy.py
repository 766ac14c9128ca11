"""Greedy decoding: the most likely token at every position."""

from __future__ import annotations

from dataclasses import dataclass

from nabla_eval.config import Sampling
from nabla_eval.requests import Draft, Generate, Method, Outcome, Problem


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Greedy decoding has no options."""


def greedy(problem: Problem, config: Greedy) -> Method:
    """One response at temperature 0."""
    (only,) = yield [Generate(problem, problem.key / "draft" / 0, Sampling(temperature=0.0))]
    draft = Draft(0, only.tokens, only.text, only.stop)
    return Outcome(only.text, only.tokens, only.stop, drafts=(draft,))
