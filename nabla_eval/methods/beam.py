"""Step-level beam search under a process or outcome reward (Snell et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.samples import mean
from nabla_eval.methods.search import Node, Tree, breadth_first
from nabla_eval.options import Budget, Judged, Sampling, Steps
from nabla_eval.protocol import Method, Part, Problem
from nabla_eval.validation import Count


@dataclass(frozen=True, kw_only=True)
class Beam(Judged, Steps, Sampling, Budget):
    """Options of beam search: `beams * width` steps are sampled a level, `beams` are kept.

    `aggregate`, of the scores of a response's steps so far: the last, the least, their mean, or
    the product of the probabilities 1 / (1 + exp(-score)).
    """

    beams: Count = 2
    width: Count = 4
    depth: Count = 40  # steps of a response at most; the last one is all the rest
    # auto: the reward model, and self-certainty where there is none.
    evaluator: Literal["auto", "reward", "self_certainty", "likelihood"] = "auto"
    aggregate: Literal["last", "min", "mean", "product"] = "last"

    FALLBACK = "self_certainty"

    @property
    def idle(self) -> str | None:
        if self.beams == self.width == 1:
            return "beams=1 with width=1 is one sample, there is nothing to choose from"
        return super().idle


def beam(problem: Problem, config: Beam) -> Method:
    """The best complete response of a search that keeps the best `beams` partial ones.

    Snell et al. sample N first steps, keep the best N / M by the process reward and sample M next
    steps after each, for at most 40 rounds: here N = beams * width, M = width = 4. Complete
    responses stay in the beam and compete with the others by their score.
    """
    tree = Tree(problem, config.step_end, config.sampling, config.depth)

    def score(node: Node) -> float:
        if config.needs_reward:
            assert node.reward is not None, "it was judged"
            return node.reward
        return node.log_likelihood if config.evaluator == "likelihood" else node.certainty

    def value(node: Node) -> float:
        return aggregated(config.aggregate, [score(step) for step in node.path])

    def evaluate(nodes: list[Node]) -> Part:
        return tree.judge(nodes, value, config.needs_reward)

    first = config.beams * config.width
    ended = yield from unless_cut(breadth_first(tree, config.beams, config.width, evaluate, first))
    return tree.outcome(tree.best(), ended)


def aggregated(rule: str, scores: Sequence[float]) -> float:
    """One value of a response from the scores of its steps."""
    if rule == "product":  # its logarithm, which has the same order
        return -sum(max(-s, 0.0) + math.log1p(math.exp(-abs(s))) for s in scores)
    return {"last": scores[-1], "min": min(scores), "mean": mean(scores)}[rule]
