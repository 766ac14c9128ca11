"""Methods that neither revise nor search: one greedy response, or a choice among n samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.samples import (
    Pool,
    first_best,
    majority,
    self_certainty,
    sigmoid,
    vote,
)
from nabla_eval.options import Budget, Judged, Sampling, require
from nabla_eval.protocol import Method, Part, Problem
from nabla_eval.validation import Count, Finite, NotNegative, Scale


@dataclass(frozen=True, kw_only=True)
class Greedy(Budget):
    """Options of greedy decoding: what it may spend."""

    needs_reward = False


def greedy(problem: Problem, config: Greedy) -> Method:
    """One response at temperature 0: the most likely token at every position."""
    pool = Pool(problem)
    ended = yield from unless_cut(pool.draw(1, Sampling(temperature=0.0)))
    return pool.outcome(0, ended or "done")


@dataclass(frozen=True, kw_only=True)
class SampleCount(Sampling, Budget):
    """How many samples are drawn, of which one is the answer."""

    n: Count = 8

    @property
    def idle(self) -> str | None:
        if self.n == 1:
            return "n=1 is one sample, there is nothing to choose from"
        return super().idle


@dataclass(frozen=True, kw_only=True)
class SelfConsistency(SampleCount):
    """Options of self-consistency."""

    needs_reward = False


def self_consistency(problem: Problem, config: SelfConsistency) -> Method:
    """A sample of the largest group of equivalent answers (Wang et al. 2023).

    The first in the group's usual spelling. Samples without an answer do not vote; among groups of
    one size the one seen first wins.
    """
    pool = Pool(problem)
    ended = yield from unless_cut(pool.draw(config.n, config.sampling))
    return pool.outcome(majority(pool.texts), ended or "done")


@dataclass(frozen=True, kw_only=True)
class BestOfN(Judged, SampleCount):
    """Options of best-of-N; with `stop_reward`, samples are drawn singly until one reaches it."""

    # auto: the reward model, and self-certainty where there is none.
    evaluator: Literal["auto", "reward", "self_certainty", "majority"] = "auto"
    stop_reward: Finite | None = None

    FALLBACK = "self_certainty"

    def __post_init__(self) -> None:
        super().__post_init__()
        good = self.stop_reward is None or self.needs_reward
        require(good, "stop_reward", self.stop_reward, "nothing where there is no reward model")


def best_of_n(problem: Problem, config: BestOfN) -> Method:
    """The first sample with the highest reward.

    Early stopping (`stop_reward`) is the fair baseline of methods that stop early themselves: it
    draws the same samples in the same order and returns the first that is good enough.
    Without a reward model, the sample with the highest self-certainty (Kang et al. 2025), or the
    first one of the majority.
    """
    pool = Pool(problem)
    ended = yield from unless_cut(_sample(pool, config, config.stop_reward))
    if config.evaluator == "majority":
        return pool.outcome(majority(pool.texts), ended)
    return pool.outcome(first_best(_values(pool, config)), ended)


@dataclass(frozen=True, kw_only=True)
class WeightedBestOfN(Judged, SampleCount):
    """Options of weighted best-of-N.

    `weighting`, of scores r: "sigmoid" 1 / (1 + exp(-r / reward_scale)), for rewards that are
    logits; "softmax" exp(r / reward_scale), normalised over the samples; "borda"
    (n - rank) ** borda_power with the best at rank 0, which needs no scale.
    """

    # auto: the reward model, and self-certainty by Borda's count where there is none.
    evaluator: Literal["auto", "reward", "self_certainty"] = "auto"
    weighting: Literal["sigmoid", "softmax", "borda"] = "sigmoid"
    reward_scale: Scale = 1.0
    borda_power: NotNegative = 1.0

    FALLBACK = "self_certainty"

    def __post_init__(self) -> None:
        super().__post_init__()
        most = 300 / max(1.0, math.log10(self.n))  # the sum of the votes is a float
        require(self.borda_power <= most, "borda_power", self.borda_power, f"at most {most:g}")

    def weights(self, scores: Sequence[float]) -> list[float]:
        """Weigh each sample's vote, given all scores; certainties count by their rank."""
        if self.weighting == "borda" or not self.needs_reward:
            order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
            places = {i: rank for rank, i in enumerate(order)}
            return [(len(scores) - places[i]) ** self.borda_power for i in range(len(scores))]
        if self.weighting == "softmax":
            top = max(scores)
            return [math.exp((score - top) / self.reward_scale) for score in scores]
        return [sigmoid(score / self.reward_scale) for score in scores]


def weighted_best_of_n(problem: Problem, config: WeightedBestOfN) -> Method:
    """The best sample of the answer whose samples weigh most together.

    Best-of-N weighted, as Snell et al. (2024) use it after Li et al. (2023): rewards
    of samples with equivalent answers are added. Without a reward model, Borda's count over
    self-certainties (Kang et al. 2025).
    """
    pool = Pool(problem)
    ended = yield from unless_cut(_sample(pool, config))
    scores = _values(pool, config)
    if not scores:
        return pool.outcome(0, ended)
    winners = vote(pool.texts[: len(scores)], config.weights(scores))
    return pool.outcome(max(winners, key=scores.__getitem__), ended)


def _sample(pool: Pool, config: BestOfN | WeightedBestOfN, stop: float | None = None) -> Part:
    """Draw n samples and score them: one by one where a reward or a budget may end it early."""
    singly = config.needs_reward and (stop is not None or config.counts)
    while len(pool.samples) < config.n:
        yield from pool.draw(1 if singly else config.n, config.sampling)
        if config.needs_reward:
            yield from pool.judge()
        if stop is not None and pool.rewards[-1] >= stop:
            return "budget" if len(pool.samples) == config.n else "reward"
    return "budget"


def _values(pool: Pool, config: BestOfN | WeightedBestOfN) -> list[float]:
    """Return the samples' rewards, or their self-certainties."""
    return pool.rewards if config.needs_reward else [self_certainty(s) for s in pool.samples]
