"""Locate and repair: the first bad prefix score says where, a chooser says what (DESIGN 3.8)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nabla_eval.errors import ModelError
from nabla_eval.experimental.guided import Known
from nabla_eval.experimental.prefix_gradient import tilted
from nabla_eval.experimental.requests import Linearisation, Tilt, Weigh
from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.samples import Pool
from nabla_eval.options import Budget, Sampling
from nabla_eval.outcome import Candidate, Choice, Verdict
from nabla_eval.protocol import Generate, Method, Part, Problem, RewardScore, Score, Trajectory
from nabla_eval.validation import Count, Finite, Share


@dataclass(frozen=True, kw_only=True)
class LocateRepair(Sampling, Budget):
    """Options of locate and repair.

    A token that was tried after a prefix is not tried there again, and the one at hand never is:
    the position is known to be wrong, and a repair that changes nothing repairs nothing.
    """

    n: Count = 8  # rollouts, the draft included
    chooser: Literal["prefix_gradient", "policy", "exact_top_k"] = "prefix_gradient"
    error_below: Finite = 0.0  # the first prefix score below it is the error
    beta: Finite = 3.0
    linearisation: Linearisation = "soft"  # of chooser=prefix_gradient
    candidates: Count = 8  # tokens that are ranked (and, by exact_top_k, scored) at an error
    min_probability: Share = 0.01  # tokens that the policy gives less are not considered
    stop_reward: Finite | None = None

    @property
    def idle(self) -> str | None:
        """Which option leaves nothing of the method."""
        return "n=1 is the draft alone, nothing is repaired" if self.n == 1 else None


def locate_repair(problem: Problem, config: LocateRepair) -> Method:
    """Draft; then replace the token of the first bad prefix score, roll out, keep what is better.

    It ends where no prefix score is bad, or nothing is left to try at the first that is. Raises
    `ModelError` for an outcome reward, which has no prefix scores to find an error by.
    """
    pool = Pool(problem)
    ended = yield from unless_cut(pool.draft(config.sampling))
    if ended:
        return pool.outcome(0, ended)
    run = _Repair(problem, config, pool.samples[0], pool.scores[0])
    ended = yield from unless_cut(_repairs(run))
    return replace(
        pool.outcome(0, ended),
        text=run.current.text,
        tokens=run.current.tokens,
        stop=run.current.stop,
        reward=run.judged.reward,
        candidates=tuple(run.candidates),
        choices=tuple(run.choices),
        visited=len(run.choices),
        positions=len(run.current.tokens),
    )


@dataclass
class _Repair:
    """The response at hand, and what was tried on it."""

    problem: Problem
    config: LocateRepair
    current: Trajectory
    judged: RewardScore
    candidates: list[Candidate] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    left: dict[tuple[int, ...], Iterator[Known]] = field(default_factory=dict)  # by prefix
    own: dict[tuple[int, ...], Known] = field(default_factory=dict)  # the token first found there

    @property
    def rollouts(self) -> int:
        return 1 + len(self.candidates)

    @property
    def ended(self) -> str | None:
        stop = self.config.stop_reward
        if stop is not None and self.judged.reward >= stop:
            return "reward"
        return "budget" if self.rollouts >= self.config.n else None

    def located(self) -> int | None:
        """The first position whose prefix score is bad; the end's score is the reward."""
        return first_error(self.current, self.judged, self.config.error_below)


def first_error(response: Trajectory, judged: RewardScore, below: float) -> int | None:
    """The first position whose prefix score is below a bound; the end's score is the reward.

    None without one. Raises `ModelError` where the reward model gives no prefix scores.
    """
    scores = judged.prefix_scores
    if response.scored and not scores:
        raise ModelError(
            "method=locate_repair finds errors by the scores of prefixes, and this reward model is "
            "an outcome reward: one score a response. Give a process reward (a token classifier), "
            "or try method=prefix_gradient, which asks about single prefixes."
        )
    if response.scored < len(response.tokens):
        scores = (*scores, judged.reward)
    return next((i for i, score in enumerate(scores) if score < below), None)


def _repairs(run: _Repair) -> Part:
    while run.ended is None:
        position = run.located()
        if position is None:
            return "done"
        token = yield from _choose(run, position)
        if token is None:
            return "done"
        yield from _try(run, position, token)
    return run.ended


def _choose(run: _Repair, position: int) -> Part:
    """The best token that was not tried after this prefix; None where there is none left."""
    prefix = run.current.tokens[:position]
    if prefix not in run.left:
        yield from _rank(run, position)
    new = next(run.left[prefix], None)
    if new is None:
        return None
    scores = run.judged.prefix_scores
    old = run.own[prefix]
    run.choices.append(
        Choice(
            index=len(run.choices),
            position=position,
            by="gradient" if run.config.chooser == "prefix_gradient" else "score",
            top_probability=run.current.top_probability[position],
            old_token=run.current.tokens[position],
            new_token=new.token,
            old_log_probability=run.current.log_probability[position],
            new_log_probability=new.log_probability,
            old_gradient=old.gradient if old.token == run.current.tokens[position] else None,
            new_gradient=new.gradient,
            old_score=scores[position] if position < len(scores) else run.judged.reward,
            new_score=new.score,
            scored=run.config.candidates if run.config.chooser == "exact_top_k" else 0,
        )
    )
    return new.token


def _rank(run: _Repair, position: int) -> Part:
    """Rank the tokens that may stand after a prefix, once."""
    config, current, prefix = run.config, run.current, run.current.tokens[:position]
    token, k = current.tokens[position], config.candidates
    by_gradient, exact = config.chooser == "prefix_gradient", config.chooser == "exact_top_k"
    request: Any = Weigh(
        run.problem,
        current,
        position,
        keep=k if exact else k + 1,  # the token at hand may be among them
        stop=k if exact else 0,
        min_probability=config.min_probability,
    )
    if by_gradient:
        request = Tilt(
            run.problem,
            current,
            position,
            config.beta,
            config.linearisation,
            keep=k + 1,
            min_probability=config.min_probability,
        )
    (ranking,) = yield [request]
    values = [*ranking.values, *[None] * (len(ranking.tokens) - len(ranking.values))]
    found = [
        Known(
            v,
            log_p,
            score=value if exact else None,
            gradient=value if by_gradient else None,
        )
        for v, log_p, value in zip(ranking.tokens, ranking.log_probability, values, strict=True)
    ]
    if exact:
        found.sort(key=lambda known: tilted(known, config.beta), reverse=True)
    log_p, g = ranking.own
    run.own[prefix] = Known(token, log_p, gradient=g if by_gradient else None)
    run.left[prefix] = iter([known for known in found if known.token != token][:k])


def _try(run: _Repair, position: int, token: int) -> Part:
    """Roll out with the new token, judge, and keep what has more reward."""
    config, old = run.config, run.current
    (rival,) = yield [
        Generate(
            run.problem,
            run.problem.key / "repair" / run.rollouts,
            config.sampling,
            old,
            position,
            token,
        )
    ]
    (judged,) = yield [Score(run.problem, rival)]
    verdict: Verdict = "accepted" if judged.reward > run.judged.reward else "rejected"
    run.candidates.append(
        Candidate(
            index=len(run.candidates),
            sweep=0,
            position=position,
            entropy=old.entropy[position],
            top_probability=old.top_probability[position],
            gradient_norm=None,
            old_token=old.tokens[position],
            new_token=token,
            old_reward=run.judged.reward,
            new_reward=judged.reward,
            verdict="tie" if judged.reward == run.judged.reward else verdict,
            tokens=rival.tokens,
            text=rival.text,
            stop=rival.stop,
        )
    )
    if verdict == "accepted":
        run.current, run.judged = rival, judged
