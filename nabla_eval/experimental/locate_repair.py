"""Locate and repair: the first bad prefix score says where, a chooser says what (DESIGN 3.8)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from nabla_eval.errors import ModelError
from nabla_eval.experimental.guided import choice_of, tilted
from nabla_eval.experimental.requests import Known, Linearisation, Tilt, Weigh
from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.samples import Pool
from nabla_eval.options import Budget, Sampling
from nabla_eval.outcome import Candidate, Choice, Verdict
from nabla_eval.protocol import Generate, Method, Part, Problem, RewardScore, Score, Trajectory
from nabla_eval.validation import Count, Finite, Share, Weight


@dataclass(frozen=True, kw_only=True)
class LocateRepair(Sampling, Budget):
    """Options of locate and repair.

    A token that was tried after a prefix is not tried there again, and the one at hand never is:
    the position is known to be wrong, and a repair that changes nothing repairs nothing.
    """

    n: Count = 8  # rollouts, the draft included
    chooser: Literal["prefix_gradient", "policy", "exact_top_k"] = "prefix_gradient"
    error_below: Finite = 0.0  # the first prefix score below it is the error
    beta: Weight = 3.0
    linearisation: Linearisation = "soft"  # of chooser=prefix_gradient
    candidates: Count = 8  # tokens that are ranked (and, by exact_top_k, scored) at an error
    min_probability: Share = 0.01  # tokens that the policy gives less are not considered
    stop_reward: Finite | None = None

    @property
    def idle(self) -> str | None:
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
    repair = _Repair(problem, config, pool.samples[0], pool.scores[0])
    ended = yield from unless_cut(repair.run())
    return replace(
        pool.outcome(0, ended),
        text=repair.current.text,
        tokens=repair.current.tokens,
        stop=repair.current.stop,
        reward=repair.score.reward,
        candidates=tuple(repair.candidates),
        choices=tuple(repair.choices),
        visited=len(repair.choices),
        positions=len(repair.current.tokens),
    )


@dataclass
class _Repair:
    """The response at hand, and what was tried on it."""

    problem: Problem
    config: LocateRepair
    current: Trajectory
    score: RewardScore
    candidates: list[Candidate] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    # By prefix: the token that was found there first, and those that are left to try.
    ranked: dict[tuple[int, ...], tuple[Known, Iterator[Known]]] = field(default_factory=dict)

    def run(self) -> Part:
        """Repair until a budget is used or nothing is left to try; returns why it ended."""
        stop = self.config.stop_reward
        while stop is None or self.score.reward < stop:
            if 1 + len(self.candidates) >= self.config.n:
                return "budget"
            position = first_error(self.current, self.score, self.config.error_below)
            token = None if position is None else (yield from self._choose(position))
            if position is None or token is None:
                return "done"
            yield from self._try(position, token)
        return "reward"

    def _choose(self, position: int) -> Part:
        """The best token that was not tried after this prefix; None where there is none left."""
        current, prefix = self.current, self.current.tokens[:position]
        if prefix not in self.ranked:
            self.ranked[prefix] = yield from self._rank(position)
        first, left = self.ranked[prefix]
        new = next(left, None)
        if new is None:
            return None
        scores = self.score.prefix_scores
        own = current.tokens[position]
        old = Known(
            own,
            current.log_probability[position],
            scores[position] if position < len(scores) else self.score.reward,
            first.gradient if first.token == own else None,
        )
        scored = self.config.candidates if self.config.chooser == "exact_top_k" else 0
        self.choices.append(choice_of(len(self.choices), current, position, old, new, scored))
        return new.token

    def _rank(self, position: int) -> Part:
        """The token at a position, and those that may take its place, best first."""
        config, k = self.config, self.config.candidates
        exact = config.chooser == "exact_top_k"
        # The token at hand may be among them.
        request: Weigh | Tilt = Weigh(
            self.problem, self.current, position, k if exact else k + 1, 0, k if exact else 0,
            config.min_probability,
        )  # fmt: skip
        if config.chooser == "prefix_gradient":
            request = Tilt(
                self.problem, self.current, position, config.beta, config.linearisation, k + 1,
                config.min_probability,
            )  # fmt: skip
        (ranking,) = yield [request]
        found = list(ranking.tokens)
        if exact:
            found.sort(key=lambda known: tilted(known, config.beta), reverse=True)
        others = [known for known in found if known.token != ranking.own.token]
        return ranking.own, iter(others[:k])

    def _try(self, position: int, token: int) -> Part:
        """Roll out with the new token, judge, and keep what has more reward."""
        old, bar = self.current, self.score.reward
        key = self.problem.key / "repair" / (1 + len(self.candidates))
        sampling = self.config.sampling
        (rival,) = yield [Generate(self.problem, key, sampling, old, position, token)]
        (score,) = yield [Score(self.problem, rival)]
        reward = score.reward
        verdict: Verdict = "accepted" if reward > bar else "tie" if reward == bar else "rejected"
        self.candidates.append(
            Candidate(
                index=len(self.candidates), sweep=0, position=position,
                entropy=old.entropy[position], top_probability=old.top_probability[position],
                gradient_norm=None, old_token=old.tokens[position], new_token=token,
                old_reward=bar, new_reward=reward, verdict=verdict,
                tokens=rival.tokens, text=rival.text, stop=rival.stop,
            )
        )  # fmt: skip
        if verdict == "accepted":
            self.current, self.score = rival, score


def first_error(response: Trajectory, score: RewardScore, below: float) -> int | None:
    """The first position whose prefix score is below a bound; the end's score is the reward.

    None without one. Raises `ModelError` where the reward model gives no prefix scores.
    """
    scores = score.prefix_scores
    if response.scored and not scores:
        raise ModelError(
            "method=locate_repair finds errors by the scores of prefixes, and this reward model is "
            "an outcome reward: one score a response. Give a process reward (a token classifier), "
            "or try method=prefix_gradient, which asks about single prefixes."
        )
    if response.scored < len(response.tokens):
        scores = (*scores, score.reward)
    return next((i for i, own in enumerate(scores) if own < below), None)
