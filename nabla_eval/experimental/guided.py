"""Responses written greedily, with the reward model's help where the policy is unsure.

One pass from left to right and no rollout is thrown away: the policy writes up to the first token
that it gives no more than `confidence`, a chooser keeps or replaces that token, and the policy goes
on. Each method of this kind is a chooser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nabla_eval.experimental.requests import Ranking
from nabla_eval.methods.limit import collect, unless_cut
from nabla_eval.options import Sampling
from nabla_eval.outcome import Choice, Outcome
from nabla_eval.protocol import Generate, Method, Part, Problem, Trajectory

GREEDY = Sampling(temperature=0.0)


@dataclass
class Writing:
    """A response under way."""

    problem: Problem
    confidence: float
    response: Trajectory | None = None
    choices: list[Choice] = field(default_factory=list)

    @property
    def written(self) -> Trajectory:
        assert self.response is not None, "the first request is always covered"
        return self.response

    @property
    def position(self) -> int:
        """Return the position of the last token."""
        return len(self.written.tokens) - 1

    def go_on(self, token: int | None = None) -> Part:
        """Write up to the next doubt, with the last token replaced by another one."""
        begun = self.response
        keep = 0 if begun is None else len(begun.tokens) - (token is not None)
        key = self.problem.key / "guided"
        found: list[Trajectory] = []
        try:
            yield from collect(
                [
                    Generate(
                        self.problem, key, GREEDY, begun, keep, token,
                        confidence=self.confidence,
                    )
                ],
                found.extend,
            )  # fmt: skip
        finally:
            if found:
                self.response = found[0]

    def ask(self, request: Any) -> Part:
        """One request about the last token; returns the ranking."""
        (ranking,) = yield [request]
        return ranking

    def note(self, by: str, new: Known, old: Known, scored: int) -> None:
        """Add a choice to the trace."""
        self.choices.append(
            Choice(
                len(self.choices),
                self.position,
                by,
                self.written.top_probability[self.position],
                old.token,
                new.token,
                old.log_probability,
                new.log_probability,
                old.gradient,
                new.gradient,
                old.score,
                new.score,
                scored,
            )
        )


@dataclass(frozen=True)
class Known:
    """A token and what is known of it."""

    token: int
    log_probability: float
    score: float | None = None
    gradient: float | None = None


def own_of(
    writing: Writing, ranking: Ranking, score: float | None = None, gradient: bool = False
) -> Known:
    """The policy's own last token."""
    log_probability, g = ranking.own
    return Known(writing.written.tokens[-1], log_probability, score, g if gradient else None)


def guided(problem: Problem, confidence: float, choose: Callable[[Writing], Part]) -> Method:
    """Write a response; `choose`, a part of a method, returns the token that is to stand last."""
    writing = Writing(problem, confidence)
    ended = yield from unless_cut(_write(writing, choose))
    response = writing.written
    return Outcome(
        response.text,
        response.tokens,
        response.stop,
        visited=len(writing.choices),
        positions=len(response.tokens),
        ended=ended,
        choices=tuple(writing.choices),
    )


def _write(writing: Writing, choose: Callable[[Writing], Part]) -> Part:
    yield from writing.go_on()
    looked_at = -1
    while True:
        response, position = writing.written, writing.position
        if position <= looked_at or response.top_probability[position] > writing.confidence:
            return "done"
        looked_at = position
        token = yield from choose(writing)
        if token != response.tokens[position]:
            yield from writing.go_on(token)
        elif response.stop == "step":
            yield from writing.go_on()
        else:
            return "done"


def log_sigmoid(score: float) -> float:
    """log sigmoid(s), without overflow."""
    return min(score, 0.0) - math.log1p(math.exp(-abs(score)))
