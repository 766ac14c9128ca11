"""Diverse verifier tree search: independent greedy searches over steps (Beeching et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.samples import first_best
from nabla_eval.methods.search import Node, StepSearch, Tree
from nabla_eval.protocol import Method, Part, Problem
from nabla_eval.validation import Count


@dataclass(frozen=True, kw_only=True)
class Dvts(StepSearch):
    """Options of DVTS: `subtrees * width` steps are sampled a level, one of each subtree is kept.

    Beeching, Tunstall and Rush ("Scaling test-time compute with open models", 2024) keep N / M
    subtrees of width M = 4 for at most 40 steps that end at a blank line, with the process
    reward's last score; their configuration (huggingface/search-and-learn) has N = 4 and
    temperature 0.8. Here N = subtrees * width = 8, as many as other methods draw.
    """

    subtrees: Count = 2
    width: Count = 4

    @property
    def idle(self) -> str | None:
        if self.subtrees == self.width == 1:
            return "subtrees=1 with width=1 is one sample, there is nothing to choose from"
        return super().idle


def dvts(problem: Problem, config: Dvts) -> Method:
    """The best complete response of `subtrees` greedy searches that know nothing of each other.

    Draws of a subtree are keyed by its number, so a search with more subtrees contains the one
    with fewer. Every complete response that was judged competes, also one that its subtree left.
    """
    tree = Tree(problem, config.step_end, config.sampling, config.depth)
    ended = yield from unless_cut(_descend(tree, config))
    return tree.outcome(tree.best(), ended)


def _descend(tree: Tree, config: Dvts) -> Part:
    """Follow the best of `width` next steps in each subtree; all subtrees go on as one batch."""
    tips = [tree.root] * config.subtrees
    for level in count():
        going = [i for i, tip in enumerate(tips) if tip.open]
        if not going:
            return "done"
        keys = [
            tree.problem.key / "subtree" / i / level / j for i in going for j in range(config.width)
        ]
        places = [tips[i] for i in going for _ in range(config.width)]
        reached: list[Node] = yield from tree.extend(places, keys)
        yield from tree.judge_new(reached, config)
        for row, i in enumerate(going):
            own = reached[row * config.width : (row + 1) * config.width]
            sound = [node for node in own if not node.note] or own
            tips[i] = sound[first_best([node.value or 0.0 for node in sound])]
