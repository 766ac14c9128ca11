"""Self-consistency: the answer that most of n samples reach (Wang et al. 2023)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from nabla_eval.config import Sampling, require
from nabla_eval.requests import Draft, Generate, Method, Outcome, Problem


@dataclass(frozen=True, kw_only=True)
class SelfConsistency:
    """Options of self-consistency."""

    n: int = 8
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        require(self.n >= 1, "n", self.n, "an integer >= 1")


def self_consistency(problem: Problem, config: SelfConsistency) -> Method:
    """The first sample of the largest group of equivalent answers.

    Samples without an answer do not vote; among groups of one size the one seen first wins.
    """
    drafts = yield [
        Generate(problem, problem.key / "draft" / i, config.sampling) for i in range(config.n)
    ]
    thought = problem.thought
    texts = [draft.text if thought is None else thought.answer(draft.text) for draft in drafts]
    winner = drafts[majority(texts)]
    return Outcome(
        winner.text,
        winner.tokens,
        winner.stop,
        drafts=tuple(Draft(i, d.tokens, d.text, d.stop) for i, d in enumerate(drafts)),
    )


def majority(texts: list[str]) -> int:
    """Index of the first text whose answer is the most frequent one (0 when none has any)."""
    from nabla_eval.grading import cluster, extract

    answers = {i: answer for i, text in enumerate(texts) if (answer := extract(text)) is not None}
    if not answers:
        return 0
    groups = dict(zip(answers, cluster(list(answers.values())), strict=True))
    largest, _ = Counter(groups.values()).most_common(1)[0]  # ties: first seen
    return next(i for i, group in groups.items() if group == largest)
