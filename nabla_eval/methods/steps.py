"""Responses as trees of steps: what beam search, tree of thought and RAP grow and judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nabla_eval.errors import OutOfCalls
from nabla_eval.methods.limit import collect, whole
from nabla_eval.methods.pool import rounded
from nabla_eval.options import Sampling, Steps
from nabla_eval.outcome import CUT_OFF, Draft, Outcome, Step
from nabla_eval.protocol import Generate, Part, Problem, Request, RewardScore, Score, Trajectory


@dataclass(eq=False)
class Node:
    """One step after those of its parents; the root, which has no trajectory, is the prompt."""

    index: int  # in order of creation; the root's is -1
    parent: Node | None = field(default=None, repr=False)
    trajectory: Trajectory | None = None  # the response up to the end of this step
    depth: int = 0  # steps up to and with this one
    value: float | None = None  # what the method thinks of it
    reward: float | None = None  # the reward model's, where it was asked about this text
    visits: int = 0
    note: str = ""  # what is wrong with it, so that nothing may follow
    remarks: str = ""  # what else went wrong about it
    drawn: int = 0  # steps that were sampled after it
    children: list[Node] = field(default_factory=list, repr=False)

    @property
    def finished(self) -> bool:
        """Return whether the response is complete."""
        return self.trajectory is not None and self.trajectory.stop in ("eos", "stop")

    @property
    def open(self) -> bool:
        """Return whether a step may follow."""
        return not self.note and (self.trajectory is None or self.trajectory.stop == "step")

    @property
    def given(self) -> int:
        """Tokens of the response before this step."""
        parent = None if self.parent is None else self.parent.trajectory
        return 0 if parent is None else len(parent.tokens)

    @property
    def text(self) -> str:
        """The text of this step alone."""
        if self.trajectory is None:
            return ""
        parent = None if self.parent is None else self.parent.trajectory
        return self.trajectory.text.removeprefix("" if parent is None else parent.text)


class Tree:
    """The steps of one problem's responses. At depth `depth` a step is all the rest."""

    def __init__(self, problem: Problem, steps: Steps, sampling: Sampling, depth: int) -> None:
        self.problem, self.steps, self.sampling, self.depth = problem, steps, sampling, depth
        self.root = Node(-1)
        self.nodes: list[Node] = []

    def grow(self, parents: Sequence[Node], width: int, whole: bool = False) -> Part:
        """Sample `width` next steps after each parent, all as one batch; returns the new nodes.

        With `whole`, each is all the rest of its response, as it always is at the greatest depth.
        Equal steps after one parent are one node. What was written when the calls run out is kept.
        """
        places = [parent for parent in parents for _ in range(width)]
        requests: list[Request] = [self._next(parent, whole) for parent in places]
        written: list[Trajectory] = []
        try:
            yield from collect(requests, written)
        except OutOfCalls:
            self.attach(places, written)
            raise
        return self.attach(places, written)

    def _next(self, parent: Node, whole: bool) -> Generate:
        before, count = parent.trajectory, parent.drawn
        until = None if whole or parent.depth + 1 >= self.depth else self.steps
        parent.drawn += 1
        return Generate(
            self.problem,
            self.problem.key / "step" / parent.index / count,
            self.sampling,
            prefix=before,
            keep=0 if before is None else len(before.tokens),
            until=until,
        )

    def attach(self, places: Sequence[Node], written: Sequence[Trajectory]) -> list[Node]:
        """New nodes of the steps that were written, one after each place."""
        new = []
        for parent, trajectory in zip(places, written, strict=False):
            if any(_same(child, trajectory) for child in parent.children):
                continue
            node = Node(len(self.nodes), parent, trajectory, parent.depth + 1)
            node.note = self._malformed(node)
            self.nodes.append(node)
            parent.children.append(node)
            new.append(node)
        return new

    def _malformed(self, node: Node) -> str:
        trajectory = node.trajectory
        assert trajectory is not None
        if trajectory.stop == "length":
            return "cut off: max_new_tokens" if whole(self.problem, trajectory) else CUT_OFF
        unended = self.steps.step != "tokens" and not self.steps.complete(node.text)
        if trajectory.stop == "step" and unended:
            return f"no step ended within {self.steps.step_tokens} tokens"
        return ""

    def judge(self, nodes: Sequence[Node]) -> Part:
        """Ask the reward model about responses up to the ends of these steps."""
        judged: list[RewardScore] = []
        requests: list[Request] = [
            Score(self.problem, node.trajectory) for node in nodes if node.trajectory is not None
        ]
        try:
            yield from collect(requests, judged)
        finally:
            for node, judgement in zip(nodes, judged, strict=False):
                node.reward = partial_reward(node, judgement)

    def best(self) -> Node:
        """The node to answer with: complete before partial, judged before not, then by value."""
        return max(self.nodes, key=_rank)

    def outcome(self, chosen: Node, ended: str) -> Outcome:
        """The response that ends with a step, and the tree as its trace."""
        trajectory = chosen.trajectory
        assert trajectory is not None
        leaves = [node for node in self.nodes if node.finished]
        return Outcome(
            trajectory.text,
            trajectory.tokens,
            trajectory.stop,
            reward=chosen.reward,
            drafts=tuple(_draft(i, node) for i, node in enumerate(leaves)),
            steps=tuple(_trace(node) for node in self.nodes),
            ended="malformed" if ended == "done" and not chosen.finished else ended,
        )


def partial_reward(node: Node, judgement: RewardScore) -> float:
    """r of a response up to the end of a step.

    A process reward's score where the step ends; an outcome reward's of the text as it stands.
    """
    assert node.trajectory is not None
    if node.trajectory.stop == "step" and judgement.prefix_scores:
        return judgement.prefix_scores[-1]
    return judgement.reward


def _same(node: Node, trajectory: Trajectory) -> bool:
    known = node.trajectory
    return known is not None and (known.tokens, known.stop) == (trajectory.tokens, trajectory.stop)


def _rank(node: Node) -> tuple[Any, ...]:
    valued = node.value is not None
    return node.finished, valued, node.value if valued else 0.0, -node.index


def _draft(index: int, node: Node) -> Draft:
    assert node.trajectory is not None
    t = node.trajectory
    return Draft(index, t.tokens, t.text, t.stop, node.reward)


def _trace(node: Node) -> Step:
    assert node.trajectory is not None and node.parent is not None
    return Step(
        index=node.index,
        parent=None if node.parent.index < 0 else node.parent.index,
        kind="step",
        tokens=node.trajectory.tokens[node.given :],
        text=node.text,
        stop=node.trajectory.stop,
        value=node.value,
        visits=node.visits,
        note="; ".join(filter(None, (node.note, node.remarks))),
    )


def log_likelihood(node: Node) -> float:
    """Mean log-probability of a step's own tokens, nats."""
    return _mean(node, "log_probability")


def certainty(node: Node) -> float:
    """Mean self-certainty over a step's own tokens, nats (Kang et al. 2025)."""
    return rounded(_mean(node, "certainty"))


def _mean(node: Node, column: str) -> float:
    own = getattr(node.trajectory, column)[node.given :]
    return sum(own) / max(1, len(own))
