"""Prefix-gradient guidance and its two gradient-free controls (DESIGN 3.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nabla_eval.experimental.guided import Known, Writing, guided, log_sigmoid, own_of
from nabla_eval.experimental.requests import Linearisation, Ranking, Tilt, Weigh
from nabla_eval.options import Budget
from nabla_eval.protocol import Method, Part, Problem
from nabla_eval.validation import Count, Finite, Probability, Share

_IDLE = "{} is greedy decoding at a higher cost"


@dataclass(frozen=True, kw_only=True)
class PrefixGradient(Budget):
    """Options of prefix-gradient guidance.

    beta = 0 is greedy decoding, and beta < 0 the causal control: what the reward model likes least.
    """

    guidance: Literal["eager", "lazy"] = "eager"
    beta: Finite = 3.0
    linearisation: Linearisation = "soft"
    confidence: Probability = 0.97  # where the policy gives its own token more, nothing is asked
    min_probability: Share = 0.01  # tokens that the policy gives less are not considered
    lazy_threshold: Finite = 1.0  # of guidance=lazy: the own token stays if its score is above

    @property
    def idle(self) -> str | None:
        """Which option leaves nothing of the method."""
        return None if self.beta else _IDLE.format("beta=0")


def prefix_gradient(problem: Problem, config: PrefixGradient) -> Method:
    """Where the policy is unsure, the token argmax_v log pi(v) + beta G_v.

    G_v = <grad_e log sigmoid(s(y_<t, e)), e_v> at the policy's mean embedding: the tokens' order
    under the optimum pi(v) exp(beta G_v) / Z of E[G] - KL(. || pi) / beta. Lazily, the policy's own
    token is scored first, and the gradient taken only where that score is low.
    """

    def choose(writing: Writing) -> Part:
        response, position = writing.written, writing.position
        score = None
        if config.guidance == "lazy":
            own = yield from writing.ask(Weigh(problem, response, position))
            score = own.values[0] if own.tokens[:1] == response.tokens[-1:] else None
            if score is not None and score > config.lazy_threshold:
                kept = own_of(writing, own, score)
                writing.note("score", kept, kept, 1)
                return kept.token
        ranking = yield from writing.ask(
            Tilt(
                problem,
                response,
                position,
                config.beta,
                config.linearisation,
                min_probability=config.min_probability,
            )
        )
        old = own_of(writing, ranking, score, gradient=True)
        new = old
        if ranking.tokens and ranking.tokens[0] != old.token:
            token, log_p, g = ranking.tokens[0], ranking.log_probability[0], ranking.values[0]
            new = Known(token, log_p, gradient=g)
        writing.note("gradient", new, old, int(config.guidance == "lazy"))
        return new.token

    return (yield from guided(problem, config.confidence, choose))


@dataclass(frozen=True, kw_only=True)
class SequentialVerify(Budget):
    """Options of sequential verification."""

    good_score: Finite = 1.0  # a token whose prefix score is above is taken
    tries: Count = 8  # tokens scored at a position, at most
    min_probability: Share = 0.01  # tokens that the policy gives less are not considered
    confidence: Probability = 0.97  # where the policy gives its own token more, nothing is asked

    @property
    def idle(self) -> str | None:
        """Which option leaves nothing of the method."""
        return None if self.tries > 1 else _IDLE.format("tries=1")


def sequential_verify(problem: Problem, config: SequentialVerify) -> Method:
    """Where the policy is unsure, its tokens are scored by falling probability until one is good.

    The first whose prefix score is above `good_score`, else the best that was seen. What the
    gradient replaces: one call a token, and no gradient.
    """

    def choose(writing: Writing) -> Part:
        response, position = writing.written, writing.position
        seen: list[Known] = []
        for rank in range(config.tries):
            ranking = yield from writing.ask(
                Weigh(
                    problem,
                    response,
                    position,
                    keep=config.tries,
                    first=rank,
                    stop=rank + 1,
                    min_probability=config.min_probability,
                )
            )
            seen += _scored(ranking, rank)
            if len(seen) <= rank or _score(seen[-1]) > config.good_score:
                break
        if seen and _score(seen[-1]) > config.good_score:
            return _settle(writing, seen[-1], seen, ranking)
        return _settle(writing, max(seen, key=_score, default=None), seen, ranking)

    return (yield from guided(problem, config.confidence, choose))


@dataclass(frozen=True, kw_only=True)
class ExactTopK(Budget):
    """Options of exact scoring of the policy's most likely tokens; `beta` as in prefix_gradient."""

    candidates: Count = 8  # tokens scored at a position, at most
    min_probability: Share = 0.01  # tokens that the policy gives less are not considered
    beta: Finite = 3.0
    confidence: Probability = 0.97  # where the policy gives its own token more, nothing is asked

    @property
    def idle(self) -> str | None:
        """Which option leaves nothing of the method."""
        if self.beta and self.candidates > 1:
            return None
        return _IDLE.format("candidates=1" if self.beta else "beta=0")


def exact_top_k(problem: Problem, config: ExactTopK) -> Method:
    """Where the policy is unsure, argmax_v log pi(v) + beta log sigmoid(s(y_<t, v)) of k tokens.

    What `prefix_gradient` linearises, without the linearisation, at a call for each token.
    """

    def choose(writing: Writing) -> Part:
        k = config.candidates
        ranking = yield from writing.ask(
            Weigh(
                problem,
                writing.written,
                writing.position,
                keep=k,
                stop=k,
                min_probability=config.min_probability,
            )
        )
        seen = _scored(ranking)
        best = max(seen, key=lambda known: tilted(known, config.beta), default=None)
        return _settle(writing, best, seen, ranking)

    return (yield from guided(problem, config.confidence, choose))


def tilted(known: Known, beta: Finite) -> float:
    """log pi + beta log sigmoid(s)."""
    return known.log_probability + beta * log_sigmoid(_score(known))


def _score(known: Known) -> float:
    assert known.score is not None, "asked of scored tokens only"
    return known.score


def _scored(ranking: Ranking, first: int = 0) -> list[Known]:
    """The tokens of a ranking that have a score; those from rank `first` on do."""
    rows = zip(
        ranking.tokens[first:], ranking.log_probability[first:], ranking.values, strict=False
    )
    return [Known(*row) for row in rows]


def _settle(writing: Writing, best: Known | None, seen: list[Known], ranking: Ranking) -> int:
    """Take a token, the policy's own where none could be scored, and note it."""
    own = own_of(writing, ranking)
    old = next((known for known in seen if known.token == own.token), own)
    new = old if best is None else best
    writing.note("score", new, old, len(seen))
    return new.token
