"""Best-of-N: the best of n samples, or the answer with the most weight among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nabla_eval.methods.answers import majority, sigmoid, vote
from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.pool import ONE_SAMPLE, Pool, self_certainty
from nabla_eval.options import Budget, Sampling, require
from nabla_eval.protocol import Method, Part, Problem
from nabla_eval.validation import Count, Finite, NotNegative, Positive


@dataclass(frozen=True, kw_only=True)
class BestOfN(Sampling, Budget):
    """Options of best-of-N; with `stop_reward`, samples are drawn singly until one reaches it."""

    n: Count = 8
    # auto: the reward model, and self-certainty where there is none.
    evaluator: Literal["auto", "reward", "self_certainty", "majority"] = "auto"
    stop_reward: Finite | None = None

    FALLBACK = "self_certainty"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.stop_reward is None or self.needs_reward,
            "stop_reward",
            self.stop_reward,
            "nothing where there is no reward model",
        )

    @property
    def idle(self) -> str | None:
        return ONE_SAMPLE if self.n == 1 else super().idle

    @property
    def needs_reward(self) -> bool:
        """Return whether responses are scored."""
        return self.evaluator in ("auto", "reward")

    @property
    def batch(self) -> int:
        """Samples drawn side by side: where it may end early, each is judged before the next."""
        singly = self.stop_reward is not None or self.counts
        return 1 if singly and self.needs_reward else self.n


def best_of_n(problem: Problem, config: BestOfN) -> Method:
    """The first sample with the highest reward.

    Early stopping (`stop_reward`) is the fair baseline of methods that stop early themselves: it
    draws the same samples in the same order and returns the first that is good enough.
    Without a reward model, the sample with the highest self-certainty (Kang et al. 2025), or the
    first one of the majority.
    """
    pool = Pool(problem)
    ended = yield from unless_cut(_sample(pool, config))
    if config.needs_reward:
        chosen = pool.best()
    elif config.evaluator == "majority":
        chosen = majority(pool.texts)
    else:
        chosen = most_certain(pool)
    return pool.outcome(chosen, ended)


def _sample(pool: Pool, config: BestOfN) -> Part:
    while len(pool.samples) < config.n:
        yield from pool.draw(config.batch, config.sampling)
        if config.needs_reward:
            yield from pool.judge()
            if config.stop_reward is not None and pool.rewards[-1] >= config.stop_reward:
                return "budget" if len(pool.samples) == config.n else "reward"
    return "budget"


def most_certain(pool: Pool) -> int:
    """Index of the first sample with the highest self-certainty."""
    return max(range(len(pool.samples)), key=lambda i: self_certainty(pool.samples[i]))


@dataclass(frozen=True, kw_only=True)
class WeightedBestOfN(Sampling, Budget):
    """Options of weighted best-of-N.

    `weighting`, of scores r: "sigmoid" 1 / (1 + exp(-r / reward_scale)), for rewards that are
    logits; "softmax" exp(r / reward_scale), normalised over the samples; "borda"
    (n - rank) ** borda_power with the best at rank 0, which needs no scale.
    """

    n: Count = 8
    # auto: the reward model, and self-certainty by Borda's count where there is none.
    evaluator: Literal["auto", "reward", "self_certainty"] = "auto"
    weighting: Literal["sigmoid", "softmax", "borda"] = "sigmoid"
    reward_scale: Positive = 1.0
    borda_power: NotNegative = 1.0

    FALLBACK = "self_certainty"

    @property
    def idle(self) -> str | None:
        return ONE_SAMPLE if self.n == 1 else super().idle

    @property
    def needs_reward(self) -> bool:
        """Return whether responses are scored."""
        return self.evaluator != "self_certainty"

    def weights(self, scores: Sequence[float]) -> list[float]:
        """Return what each sample's vote weighs, given all scores; certainties count by their
        rank.
        """
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
    ended = yield from unless_cut(_weigh(pool, config))
    scores = pool.rewards
    if not config.needs_reward:
        scores = [self_certainty(sample) for sample in pool.samples]
    if not scores:
        return pool.outcome(0, ended)
    winners = vote(pool.texts[: len(scores)], config.weights(scores))
    return pool.outcome(max(winners, key=scores.__getitem__), ended)


def _weigh(pool: Pool, config: WeightedBestOfN) -> Part:
    singly = config.needs_reward and config.counts
    while len(pool.samples) < config.n:
        yield from pool.draw(1 if singly else config.n, config.sampling)
        if config.needs_reward:
            yield from pool.judge()
    return "budget"
