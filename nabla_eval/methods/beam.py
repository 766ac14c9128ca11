"""Step-level beam search under a process or outcome reward (Snell et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.steps import Node, Tree, certainty, log_likelihood
from nabla_eval.options import Budget, Sampling, Steps
from nabla_eval.protocol import Method, Part, Problem
from nabla_eval.validation import Count

Evaluate = Callable[[list[Node]], Part]


@dataclass(frozen=True, kw_only=True)
class Beam(Steps, Sampling, Budget):
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

    @property
    def needs_reward(self) -> bool:
        """Return whether responses are scored."""
        return self.evaluator in ("auto", "reward")


def beam(problem: Problem, config: Beam) -> Method:
    """The best complete response of a search that keeps the best `beams` partial ones.

    Snell et al. sample N first steps, keep the best N / M by the process reward and sample M next
    steps after each, for at most 40 rounds: here N = beams * width, M = width = 4. Complete
    responses stay in the beam and compete with the others by their score.
    """
    tree = Tree(problem, config.step_end, config.sampling, config.depth)
    scores: dict[Node, tuple[float, ...]] = {tree.root: ()}

    def evaluate(nodes: list[Node]) -> Part:
        try:
            if config.needs_reward:
                yield from tree.judge(nodes)
        finally:  # also of those that were judged before the calls ran out
            for node in nodes:
                if node.reward is not None or not config.needs_reward:
                    assert node.parent is not None
                    scores[node] = (*scores[node.parent], _score(config, node))
                    node.value = aggregated(config.aggregate, scores[node])

    first = config.beams * config.width
    ended = yield from unless_cut(breadth_first(tree, config.beams, config.width, evaluate, first))
    return tree.outcome(tree.best(), ended)


def _score(config: Beam, node: Node) -> float:
    if node.reward is not None:
        return node.reward
    return log_likelihood(node) if config.evaluator == "likelihood" else certainty(node)


def aggregated(rule: str, scores: Sequence[float]) -> float:
    """One value of a response from the scores of its steps."""
    if rule == "min":
        return min(scores)
    if rule == "mean":
        return sum(scores) / len(scores)
    if rule == "product":  # its logarithm, which has the same order
        return -sum(max(-s, 0.0) + math.log1p(math.exp(-abs(s))) for s in scores)
    return scores[-1]


def breadth_first(
    tree: Tree,
    keep: int,
    width: int,
    evaluate: Evaluate,
    first: int | None = None,
    grow: Callable[[list[Node], int], Part] | None = None,
) -> Part:
    """Level by level: `width` steps after each kept node, of all of which `keep` are kept.

    `evaluate` gives nodes their values; malformed ones get none and are not kept. Complete ones
    stay, and are not judged again. Returns "done" when nothing kept can go on.
    """
    grow = grow or tree.grow
    kept = [tree.root]
    while any(node.open for node in kept):
        going = [node for node in kept if node.open]
        count = first if going == [tree.root] and first is not None else width
        new = yield from grow(going, count)
        sound = [node for node in new if not node.note]
        if sound:
            yield from evaluate(sound)
        rivals = [node for node in kept if node.finished] + sound
        kept = sorted(rivals, key=lambda node: -(node.value or 0.0))[:keep]
    return "done"
