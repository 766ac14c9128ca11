"""Best-of-N: the sample that the reward model likes most."""

from __future__ import annotations

from dataclasses import dataclass, field

from nabla_eval.config import Sampling, require
from nabla_eval.requests import Draft, Generate, Method, Outcome, Problem, Score, Trajectory


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """Options of best-of-N; with `stop_reward`, samples are drawn singly until one reaches it."""

    n: int = 8
    stop_reward: float | None = None
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "an integer >= 1")


def best_of_n(problem: Problem, config: BestOfN) -> Method:
    """The first sample with the highest reward.

    Early stopping (`stop_reward`) is the fair baseline of methods that stop early themselves: it
    draws the same samples in the same order and returns the first that is good enough.
    """
    samples: list[Trajectory] = []
    rewards: list[float] = []
    batch = config.n if config.stop_reward is None else 1
    while len(samples) < config.n:
        indices = range(len(samples), len(samples) + batch)
        new = yield [Generate(problem, problem.key / "draft" / i, config.sampling) for i in indices]
        judged = yield [Score(problem, sample) for sample in new]
        samples += new
        rewards += [judgement.reward for judgement in judged]
        if config.stop_reward is not None and rewards[-1] >= config.stop_reward:
            break
    best = max(range(len(samples)), key=rewards.__getitem__)
    return Outcome(
        samples[best].text,
        samples[best].tokens,
        samples[best].stop,
        reward=rewards[best],
        drafts=tuple(
            Draft(i, s.tokens, s.text, s.stop, reward)
            for i, (s, reward) in enumerate(zip(samples, rewards, strict=True))
        ),
        ended="reward" if len(samples) < config.n else "budget",
    )
