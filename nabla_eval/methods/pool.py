"""Independent samples of one problem and what is known of them, while a method draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest

from nabla_eval.methods.limit import collect, whole
from nabla_eval.options import Sampling
from nabla_eval.outcome import Draft, Outcome, Step
from nabla_eval.protocol import Generate, Part, Problem, Request, RewardScore, Score, Trajectory

ONE_SAMPLE = "n=1 is one sample, there is nothing to choose from"


@dataclass
class Pool:
    """Samples in the order they were drawn; the first of them are judged, if any is."""

    problem: Problem
    seen: Callable[[Trajectory], Trajectory] = lambda sample: sample  # as the reward model is to
    samples: list[Trajectory] = field(default_factory=list)
    judgements: list[RewardScore] = field(default_factory=list)

    def draw(self, count: int, sampling: Sampling) -> Part:
        """Draw further samples from the problem's prompt: draft i is the same for every method."""
        start = len(self.samples)
        requests: list[Request] = [
            Generate(self.problem, self.problem.key / "draft" / i, sampling)
            for i in range(start, start + count)
        ]
        drawn: list[Trajectory] = []
        try:
            yield from collect(requests, drawn)
        finally:
            self.samples += map(self.seen, drawn)

    def judge(self) -> Part:
        """Score the samples that are not judged yet."""
        waiting = self.samples[len(self.judgements) :]
        requests: list[Request] = [Score(self.problem, s) for s in waiting]
        yield from collect(requests, self.judgements)

    def draft(self, sampling: Sampling) -> Part:
        """Draw one sample and score it."""
        yield from self.draw(1, sampling)
        yield from self.judge()

    @property
    def rewards(self) -> list[float]:
        return [judgement.reward for judgement in self.judgements]

    @property
    def texts(self) -> list[str]:
        """Answers of the samples, thoughts cut; one that max_calls cut short has none to read."""
        return [answer(self.problem, s) if whole(self.problem, s) else "" for s in self.samples]

    def best(self) -> int:
        """Index of the first sample with the highest reward; of the first one where none has."""
        return max(range(len(self.judgements)), key=self.rewards.__getitem__, default=0)

    def outcome(self, chosen: int, ended: str, steps: tuple[Step, ...] = ()) -> Outcome:
        """One of the samples as the method's answer."""
        sample = self.samples[chosen]
        judged = list(zip_longest(self.samples, self.rewards))
        return Outcome(
            sample.text,
            sample.tokens,
            sample.stop,
            reward=judged[chosen][1],
            drafts=tuple(
                Draft(i, s.tokens, s.text, s.stop, reward) for i, (s, reward) in enumerate(judged)
            ),
            steps=steps,
            ended=ended,
        )


def answer(problem: Problem, trajectory: Trajectory) -> str:
    """Return what a response says after its thoughts."""
    thought = problem.thought
    return trajectory.text if thought is None else thought.answer(trajectory.text)


def self_certainty(sample: Trajectory) -> float:
    """Mean over the tokens of KL(uniform || policy), nats (Kang et al. 2025)."""
    return rounded(sum(sample.certainty) / max(1, len(sample.certainty)))


def rounded(certainty: float) -> float:
    """Without the digits that depend on the batch.

    A token's certainty does not depend on which token was drawn, so responses of one token tie
    exactly, and noise of 1e-16 must not choose between them.
    """
    return round(certainty, 9)
