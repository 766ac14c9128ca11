"""Independent samples of one problem: drawn, judged, read, and voted on by their answers."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from nabla_eval.methods.limit import collect, whole
from nabla_eval.options import Sampling
from nabla_eval.outcome import Draft, Outcome, Step
from nabla_eval.protocol import Generate, Part, Problem, RewardScore, Score, Trajectory


@dataclass
class Pool:
    """Samples in the order they were drawn; the first of them are judged, if any is."""

    problem: Problem
    seen: Callable[[Trajectory], Trajectory] = lambda sample: sample  # as the reward model is to
    samples: list[Trajectory] = field(default_factory=list)
    scores: list[RewardScore] = field(default_factory=list)

    def draw(self, count: int, sampling: Sampling) -> Part:
        """Draw further samples from the problem's prompt: draft i is the same for every method."""
        start = len(self.samples)
        drafts = self.problem.key / "draft"
        yield from collect(
            [Generate(self.problem, drafts / i, sampling) for i in range(start, start + count)],
            lambda drawn: self.samples.extend(map(self.seen, drawn)),
        )

    def judge(self) -> Part:
        """Score the samples that are not judged yet."""
        waiting = self.samples[len(self.scores) :]
        yield from collect([Score(self.problem, s) for s in waiting], self.scores.extend)

    def draft(self, sampling: Sampling) -> Part:
        """Draw one sample and score it."""
        yield from self.draw(1, sampling)
        yield from self.judge()

    @property
    def rewards(self) -> list[float]:
        """Rewards of the samples that were judged."""
        return [score.reward for score in self.scores]

    @property
    def texts(self) -> list[str]:
        """Answers of the samples, thoughts cut; one that max_calls cut short has none to read."""
        return [answer(self.problem, s) if whole(self.problem, s) else "" for s in self.samples]

    def best(self) -> int:
        """Index of the first sample with the highest reward; of the first one where none has."""
        return first_best(self.rewards)

    def outcome(self, chosen: int, ended: str, steps: Sequence[Step] = ()) -> Outcome:
        """One of the samples as the method's answer."""
        drafts = tuple(
            Draft(i, sample.tokens, sample.text, sample.stop, reward)
            for i, (sample, reward) in enumerate(zip_longest(self.samples, self.rewards))
        )
        own = drafts[chosen]
        return Outcome(
            own.text, own.tokens, own.stop, own.reward, ended, drafts=drafts, steps=tuple(steps)
        )


def first_best(values: Sequence[float]) -> int:
    """Index of the first of the greatest values; 0 where there are none."""
    return max(range(len(values)), key=values.__getitem__, default=0)


def answer(problem: Problem, trajectory: Trajectory) -> str:
    """Return what a response says after its thoughts."""
    thought = problem.thought
    return trajectory.text if thought is None else thought.answer(trajectory.text)


def self_certainty(sample: Trajectory, start: int = 0) -> float:
    """Mean over the tokens from `start` on of KL(uniform || policy), nats (Kang et al. 2025).

    Without the digits that depend on the batch. A token's certainty does not depend on which token
    was drawn, so responses of one token tie exactly, and noise of 1e-16 must not choose.
    """
    return round(mean(sample.certainty[start:]), 9)


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean; 0 where there are no values."""
    return sum(values) / max(1, len(values))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def agreement(texts: Sequence[str]) -> dict[int, int]:
    """Group of each text that has an answer: equal exactly where the answers are."""
    from nabla_eval.grading import cluster, extract

    answers = {i: found for i, text in enumerate(texts) if (found := extract(text)) is not None}
    return dict(zip(answers, cluster(list(answers.values())), strict=True)) if answers else {}


def vote(texts: Sequence[str], weights: Sequence[float]) -> list[int]:
    """Indices of the texts whose answer has the greatest sum of weights, in order.

    Texts without an answer do not vote. Which answers are one does not depend on the order of the
    texts; among equal sums the answer seen first wins, which is a fair lot, since samples are drawn
    independently and keyed by their index. Without any answer, all indices.
    """
    groups = agreement(texts)
    if not groups:
        return list(range(len(texts)))
    cast: dict[int, list[float]] = defaultdict(list)
    for i, group in groups.items():
        cast[group].append(weights[i])
    # `fsum` rounds once, so that no sum depends on the order of its terms.
    winner = max(cast, key=lambda group: math.fsum(cast[group]))
    return [i for i, group in groups.items() if group == winner]


def majority(texts: Sequence[str]) -> int:
    """Index of a text with the most frequent answer (0 when none has any).

    Answers of one group may be spelt differently and, since equality is not transitive, even differ
    (10 inches, 10): the first text with the group's most frequent spelling stands for it.
    """
    from nabla_eval.grading import extract

    winners = vote(texts, [1.0] * len(texts))
    spelling = {i: extract(texts[i]) for i in winners}
    count = Counter(spelling.values())
    return max(winners, key=lambda i: count[spelling[i]])
