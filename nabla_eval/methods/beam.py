"""Step-level beam search under a process or outcome reward (Snell et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.search import Node, StepSearch, Tree, breadth_first
from nabla_eval.protocol import Method, Part, Problem
from nabla_eval.validation import Count


@dataclass(frozen=True, kw_only=True)
class Beam(StepSearch):
    """Options of beam search: `beams * width` steps are sampled a level, `beams` are kept."""

    beams: Count = 2
    width: Count = 4

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

    def evaluate(nodes: list[Node]) -> Part:
        return tree.judge(nodes, config.value, config.needs_reward)

    first = config.beams * config.width
    ended = yield from unless_cut(breadth_first(tree, config.beams, config.width, evaluate, first))
    return tree.outcome(tree.best(), ended)
