"""Search over the steps of a response: the tree that is grown and judged, and breadth-first search.

Beam search, DVTS, particle filtering, tree of thought and RAP say which steps are grown, what a
step is worth, and what is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nabla_eval.methods.limit import collect, whole
from nabla_eval.methods.samples import mean, self_certainty
from nabla_eval.options import Budget, Judged, Sampling, Steps, StepScores
from nabla_eval.outcome import CUT_OFF, Draft, Outcome, Step
from nabla_eval.protocol import Generate, Part, Problem, RewardScore, Score, Trajectory
from nabla_eval.randomness import Key
from nabla_eval.validation import Count


@dataclass(frozen=True, kw_only=True)
class StepSearch(Judged, StepScores, Steps, Sampling, Budget):
    """Options of searches that value a partial response by the scores of its steps."""

    depth: Count = 40  # steps of a response at most; the last one is all the rest
    # auto: the reward model, and self-certainty where there is none.
    evaluator: Literal["auto", "reward", "self_certainty", "likelihood"] = "auto"

    FALLBACK = "self_certainty"

    def value(self, node: Node) -> float:
        """Return the value of the response up to and with a step."""
        return aggregated(self.step_score, [self._score(step) for step in node.path])

    def _score(self, node: Node) -> float:
        if self.needs_reward:
            assert node.reward is not None, "it was judged"
            return node.reward
        return node.log_likelihood if self.evaluator == "likelihood" else node.certainty


def aggregated(rule: str, scores: Sequence[float]) -> float:
    """Return one value of a response from the scores of its steps, in order.

    prod is the logarithm of the product of 1 / (1 + exp(-score)), which orders as the product does.
    """
    if rule == "prod":
        return -sum(max(-s, 0.0) + math.log1p(math.exp(-abs(s))) for s in scores)
    return {
        "last": scores[-1], "min": min(scores), "mean": mean(scores), "sum": sum(scores),
    }[rule]  # fmt: skip


@dataclass(eq=False)
class Node:
    """One step after those of its parents; the root, which has no parent, is the prompt."""

    index: int  # in order of creation; the root's is -1
    parent: Node | None = field(repr=False)
    trajectory: Trajectory  # the response up to the end of this step
    value: float | None = None  # what the method thinks of it
    reward: float | None = None  # the reward model's, where it was asked about this text
    visits: int = 0
    note: str = ""  # what is wrong with it, so that nothing may follow
    remarks: list[str] = field(default_factory=list)  # what else went wrong about it
    drawn: int = 0  # steps that were sampled after it
    children: list[Node] = field(default_factory=list, repr=False)

    @property
    def path(self) -> list[Node]:
        """The steps of the response up to and with this one."""
        steps, node = [], self
        while node.parent is not None:
            steps.append(node)
            node = node.parent
        return steps[::-1]

    @property
    def finished(self) -> bool:
        """Return whether the response is complete."""
        return self.trajectory.stop in ("eos", "stop")

    @property
    def open(self) -> bool:
        """Return whether a step may follow."""
        return not self.note and self.trajectory.stop == "step"

    @property
    def given(self) -> int:
        """Tokens of the response before this step."""
        return 0 if self.parent is None else len(self.parent.trajectory.tokens)

    @property
    def before(self) -> str:
        """The text of the response before this step."""
        return "" if self.parent is None else self.parent.trajectory.text

    @property
    def text(self) -> str:
        """The text of this step alone."""
        return self.trajectory.text.removeprefix(self.before)

    @property
    def prefix(self) -> Trajectory | None:
        """What the engine goes on from; None at the root, where that is the prompt."""
        return None if self.parent is None else self.trajectory

    @property
    def certainty(self) -> float:
        """Mean self-certainty over the step's own tokens, nats (Kang et al. 2025)."""
        return self_certainty(self.trajectory, self.given)

    @property
    def log_likelihood(self) -> float:
        """Mean log-probability of the step's own tokens, nats."""
        return mean(self.trajectory.log_probability[self.given :])

    def trace(self) -> Step:
        """The step as traces store it."""
        assert self.parent is not None, "the root is no step"
        return Step(
            self.index,
            None if self.parent.index < 0 else self.parent.index,
            "step",
            self.trajectory.tokens[self.given :],
            self.text,
            self.trajectory.stop,
            self.value,
            self.visits,
            note="; ".join(filter(None, (self.note, *self.remarks))),
        )


class Tree:
    """The steps of one problem's responses. At depth `depth` a step is all the rest."""

    def __init__(self, problem: Problem, steps: Steps, sampling: Sampling, depth: int) -> None:
        self.problem, self.steps, self.sampling, self.depth = problem, steps, sampling, depth
        self.root = Node(-1, None, Trajectory((), "", 0, "step", (), (), (), problem.key))
        self.nodes: list[Node] = []

    def last(self, parent: Node) -> bool:
        """Return whether what follows a step is all the rest of the response."""
        return len(parent.path) + 1 >= self.depth

    def grow(self, parents: Sequence[Node], width: int, rest: bool = False) -> Part:
        """Sample `width` next steps after each parent, all as one batch; returns the new nodes.

        With `rest`, each is all the rest of its response, as it always is at the greatest depth.
        Equal steps after one parent are one node. What was written when the calls run out is kept.
        """
        known = len(self.nodes)
        places = [parent for parent in parents for _ in range(width)]
        yield from self.extend(places, [self._next_key(place) for place in places], rest)
        return self.nodes[known:]

    def _next_key(self, parent: Node) -> Key:
        parent.drawn += 1
        return self.problem.key / "step" / parent.index / (parent.drawn - 1)

    def extend(self, places: Sequence[Node], keys: Sequence[Key], rest: bool = False) -> Part:
        """Sample the next step after each place from its own key, all as one batch.

        Returns the node that each place reached; places that wrote the same reach the same.
        """
        reached: list[Node] = []
        yield from collect(
            [self._next(place, key, rest) for place, key in zip(places, keys, strict=True)],
            lambda written: reached.extend(self.attach(places, written)),
        )
        return reached

    def _next(self, parent: Node, key: Key, rest: bool) -> Generate:
        until = None if rest or self.last(parent) else self.steps
        keep = len(parent.trajectory.tokens)
        return Generate(self.problem, key, self.sampling, parent.prefix, keep, until=until)

    def attach(self, places: Sequence[Node], written: Sequence[Trajectory]) -> list[Node]:
        """Return the node of each step that was written, one after each place."""
        return [
            self._child(parent, trajectory)
            for parent, trajectory in zip(places, written, strict=False)
        ]

    def _child(self, parent: Node, trajectory: Trajectory) -> Node:
        for child in parent.children:
            known = child.trajectory
            if (known.tokens, known.stop) == (trajectory.tokens, trajectory.stop):
                return child
        node = Node(len(self.nodes), parent, trajectory)
        node.note = self._malformed(node)
        self.nodes.append(node)
        parent.children.append(node)
        return node

    def _malformed(self, node: Node) -> str:
        stop = node.trajectory.stop
        if stop == "length":
            ran_on = whole(self.problem, node.trajectory)
            return "cut off: max_new_tokens" if ran_on else CUT_OFF
        if stop == "step" and self.steps.step != "tokens" and not self.steps.complete(node.text):
            return f"no step ended within {self.steps.step_tokens} tokens"
        return ""

    def judge(
        self, nodes: Sequence[Node], value: Callable[[Node], float | None], rewarded: bool = True
    ) -> Part:
        """Value steps, where `rewarded` by what the reward model says of the responses up to them.

        Those that were judged before the calls ran out have their values then, too.
        """
        if not rewarded:
            for node in nodes:
                node.value = value(node)
            return

        def keep(scores: Sequence[RewardScore]) -> None:
            for node, score in zip(nodes, scores, strict=False):
                node.reward = partial_reward(node.trajectory, score)
                node.value = value(node)

        yield from collect([Score(self.problem, node.trajectory) for node in nodes], keep)

    def judge_new(self, reached: Sequence[Node], config: StepSearch) -> Part:
        """Judge what is neither malformed nor judged yet, each node once."""
        waiting = [n for n in dict.fromkeys(reached) if not n.note and n.value is None]
        if waiting:
            yield from self.judge(waiting, config.value, config.needs_reward)

    def best(self) -> Node:
        """The node to answer with: complete before partial, judged before not, then by value."""
        return max(
            self.nodes,
            key=lambda node: (
                node.finished,
                node.value is not None,
                node.value or 0.0,
                -node.index,
            ),
        )

    def outcome(self, chosen: Node, ended: str) -> Outcome:
        """The response that ends with a step, and the tree as its trace."""
        own = chosen.trajectory
        leaves = [(node.trajectory, node.reward) for node in self.nodes if node.finished]
        return Outcome(
            own.text,
            own.tokens,
            own.stop,
            reward=chosen.reward,
            drafts=tuple(
                Draft(i, end.tokens, end.text, end.stop, reward)
                for i, (end, reward) in enumerate(leaves)
            ),
            steps=tuple(node.trace() for node in self.nodes),
            ended="malformed" if ended == "done" and not chosen.finished else ended,
        )


def partial_reward(response: Trajectory, score: RewardScore) -> float:
    """r of a response up to the end of a step.

    A process reward's score where the step ends; an outcome reward's of the text as it stands.
    """
    if response.stop == "step" and score.prefix_scores:
        return score.prefix_scores[-1]
    return score.reward


def breadth_first(
    tree: Tree,
    keep: int,
    width: int,
    evaluate: Callable[[list[Node]], Part],
    first: int | None = None,
    grow: Callable[[list[Node], int], Part] | None = None,
) -> Part:
    """Level by level: `width` steps (`first` at first) after each of the `keep` best nodes.

    `evaluate` gives nodes their values; malformed ones get none and are not kept. Complete ones
    stay, and are not judged again. Returns "done" when nothing kept can go on.
    """
    kept = [tree.root]
    while going := [node for node in kept if node.open]:
        count = width if first is None or tree.nodes else first
        new = yield from (grow or tree.grow)(going, count)
        sound = [node for node in new if not node.note]
        if sound:
            yield from evaluate(sound)
        rivals = [node for node in kept if node.finished] + sound
        kept = sorted(rivals, key=lambda node: -(node.value or 0.0))[:keep]
    return "done"
