"""Prefix-gradient guidance and its two gradient-free controls (DESIGN 3.8).

Responses are written greedily in one pass, and no rollout is thrown away: the policy writes up to
the first token that it gives no more than `confidence`, that token is kept or replaced with the
reward model's help, and the policy goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nabla_eval.experimental.requests import Known, Linearisation, Ranking, Tilt, Weigh
from nabla_eval.methods.limit import collect, unless_cut
from nabla_eval.options import Budget, Sampling
from nabla_eval.outcome import Choice, Outcome
from nabla_eval.protocol import Generate, Method, Part, Problem, Trajectory
from nabla_eval.validation import Count, Finite, Probability, Share, Weight

# What a method knows of the last token of a response: the policy's own, the one that is to stand
# there, and the number of tokens that were scored.
Chosen = tuple[Known, Known, int]
_IDLE = "{} is greedy decoding at a higher cost"


@dataclass(frozen=True, kw_only=True)
class Guidance(Budget):
    """Where the reward model is asked, and about which tokens."""

    confidence: Probability = 0.97  # where the policy gives its own token more, nothing is asked
    min_probability: Share = 0.01  # tokens that the policy gives less are not considered


@dataclass(frozen=True, kw_only=True)
class PrefixGradient(Guidance):
    """Options of prefix-gradient guidance.

    beta = 0 is greedy decoding, and beta < 0 the causal control: what the reward model likes least.
    """

    guidance: Literal["eager", "lazy"] = "eager"
    beta: Weight = 3.0
    linearisation: Linearisation = "soft"
    lazy_threshold: Finite = 1.0  # of guidance=lazy: the own token stays if its score is above

    @property
    def idle(self) -> str | None:
        return None if self.beta else _IDLE.format("beta=0")


def prefix_gradient(problem: Problem, config: PrefixGradient) -> Method:
    """Where the policy is unsure, the token argmax_v log pi(v) + beta G_v.

    G_v = <grad_e log sigmoid(s(y_<t, e)), e_v> at the policy's mean embedding: the tokens' order
    under the optimum pi(v) exp(beta G_v) / Z of E[G] - KL(. || pi) / beta. Lazily, the policy's own
    token is scored first, and the gradient taken only where that score is low.
    """

    def choose(response: Trajectory, position: int) -> Part:
        """Return what is `Chosen` at a position."""
        lazy = config.guidance == "lazy"
        score = None
        if lazy:
            (ranking,) = yield [Weigh(problem, response, position)]
            own = ranking.own
            score = next(
                (first.score for first in ranking.tokens if first.token == own.token), None
            )
            if score is not None and score > config.lazy_threshold:
                kept = replace(own, score=score)
                return kept, kept, 1
        (ranking,) = yield [
            Tilt(
                problem, response, position, config.beta, config.linearisation,
                min_probability=config.min_probability,
            )
        ]  # fmt: skip
        old = replace(ranking.own, score=score)
        new = next((first for first in ranking.tokens if first.token != old.token), old)
        return old, new, int(lazy)

    return (yield from guided(problem, config, choose))


@dataclass(frozen=True, kw_only=True)
class SequentialVerify(Guidance):
    """Options of sequential verification."""

    good_score: Finite = 1.0  # a token whose prefix score is above is taken
    tries: Count = 8  # tokens scored at a position, at most

    @property
    def idle(self) -> str | None:
        return None if self.tries > 1 else _IDLE.format("tries=1")


def sequential_verify(problem: Problem, config: SequentialVerify) -> Method:
    """Where the policy is unsure, its tokens are scored by falling probability until one is good.

    The first whose prefix score is above `good_score`, else the best that was seen. What the
    gradient replaces: one call a token, and no gradient.
    """

    def choose(response: Trajectory, position: int) -> Part:
        """Return what is `Chosen` at a position."""
        seen: list[Known] = []
        for rank in range(config.tries):
            (ranking,) = yield [
                Weigh(
                    problem, response, position, config.tries, rank, rank + 1,
                    config.min_probability,
                )
            ]  # fmt: skip
            seen += ranking.tokens[rank : rank + 1]
            if len(seen) <= rank or score_of(seen[-1]) > config.good_score:
                break
        return _best_scored(seen, ranking, score_of)

    return (yield from guided(problem, config, choose))


@dataclass(frozen=True, kw_only=True)
class ExactTopK(Guidance):
    """Options of exact scoring of the policy's most likely tokens; `beta` as in prefix_gradient."""

    candidates: Count = 8  # tokens scored at a position, at most
    beta: Weight = 3.0

    @property
    def idle(self) -> str | None:
        if self.beta and self.candidates > 1:
            return None
        return _IDLE.format("candidates=1" if self.beta else "beta=0")


def exact_top_k(problem: Problem, config: ExactTopK) -> Method:
    """Where the policy is unsure, argmax_v log pi(v) + beta log sigmoid(s(y_<t, v)) of k tokens.

    What `prefix_gradient` linearises, without the linearisation, at a call for each token.
    """

    def choose(response: Trajectory, position: int) -> Part:
        """Return what is `Chosen` at a position."""
        k = config.candidates
        (ranking,) = yield [Weigh(problem, response, position, k, 0, k, config.min_probability)]
        return _best_scored(ranking.tokens, ranking, lambda known: tilted(known, config.beta))

    return (yield from guided(problem, config, choose))


def _best_scored(
    seen: Sequence[Known], ranking: Ranking, value: Callable[[Known], float]
) -> Chosen:
    """The best of the tokens that were scored; the policy's own where none could be."""
    own = ranking.own
    old = next((known for known in seen if known.token == own.token), own)
    return old, max(seen, key=value, default=old), len(seen)


def guided(problem: Problem, config: Guidance, choose: Callable[[Trajectory, int], Part]) -> Method:
    """Write a response; `choose`, a part of a method, returns what is `Chosen` at its end."""
    written: list[Trajectory] = []  # the last is the response at hand
    choices: list[Choice] = []
    ended = yield from unless_cut(_write(problem, config, choose, written, choices))
    response = written[-1]  # the first request is always covered
    return Outcome(
        response.text,
        response.tokens,
        response.stop,
        visited=len(choices),
        positions=len(response.tokens),
        ended=ended,
        choices=tuple(choices),
    )


def _write(
    problem: Problem,
    config: Guidance,
    choose: Callable[[Trajectory, int], Part],
    written: list[Trajectory],
    choices: list[Choice],
) -> Part:
    start = Generate(
        problem, problem.key / "guided", Sampling(temperature=0.0), confidence=config.confidence
    )
    yield from collect([start], written.extend)
    looked_at = -1
    while True:
        response, position = written[-1], len(written[-1].tokens) - 1
        if position <= looked_at or response.top_probability[position] > config.confidence:
            return "done"
        looked_at = position
        old, new, scored = yield from choose(response, position)
        choices.append(choice_of(len(choices), response, position, old, new, scored))
        if new.token != response.tokens[position]:
            going_on = replace(start, prefix=response, keep=position, token=new.token)
        elif response.stop == "step":
            going_on = replace(start, prefix=response, keep=position + 1)
        else:
            return "done"
        yield from collect([going_on], written.extend)


def choice_of(
    index: int, response: Trajectory, position: int, old: Known, new: Known, scored: int
) -> Choice:
    """Return the trace of one token that was chosen."""
    return Choice(
        index=index,
        position=position,
        by="score" if new.gradient is None else "gradient",
        top_probability=response.top_probability[position],
        old_token=response.tokens[position],
        new_token=new.token,
        old_log_probability=old.log_probability,
        new_log_probability=new.log_probability,
        old_gradient=old.gradient,
        new_gradient=new.gradient,
        old_score=old.score,
        new_score=new.score,
        scored=scored,
    )


def score_of(known: Known) -> float:
    """Return the score of a token that was scored."""
    assert known.score is not None, "asked of scored tokens only"
    return known.score


def tilted(known: Known, beta: float) -> float:
    """log pi + beta log sigmoid(s)."""
    return known.log_probability + beta * log_sigmoid(score_of(known))


def log_sigmoid(score: float) -> float:
    """log sigmoid(s), without overflow."""
    return min(score, 0.0) - math.log1p(math.exp(-abs(score)))
