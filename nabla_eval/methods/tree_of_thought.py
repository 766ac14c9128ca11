"""Tree of thought: breadth-first search over steps that are judged (Yao et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.questions import Prompts, ask, flaw, spoken
from nabla_eval.methods.search import Node, Tree, aggregated, breadth_first
from nabla_eval.options import DELIMITERS, Budget, Judged, Sampling, Steps, StepScores, require
from nabla_eval.protocol import Method, Part, Problem, Replay, Trajectory
from nabla_eval.randomness import Key
from nabla_eval.validation import Count

# Yao et al.'s values of the words, in their code for the game of 24.
WORDS = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}


@dataclass(frozen=True, kw_only=True)
class TreeOfThought(Judged, StepScores, Steps, Sampling, Prompts, Budget):
    """Options of tree of thought.

    Yao et al. keep b = 5 states with 3 valuations each in the game of 24 (section 4.1), and sample
    k = 5 thoughts with 5 votes in creative writing (section 4.2), at temperature 0.7.
    """

    breadth: Count = 5  # b: states kept
    proposals: Count = 5  # k: thoughts after each
    depth: Count = 10  # steps of a response at most; the last one is all the rest
    generation: Literal["sample", "propose"] = "sample"
    # auto: the reward model, and the policy itself where there is none.
    evaluator: Literal["auto", "reward", "self"] = "auto"
    evaluation: Literal["value", "vote"] = "value"  # of evaluator=self
    evaluations: Count = 3  # replies to each question of evaluator=self
    reply_tokens: Count | None = None  # the longest reply; None: as long as a response, 512 at most

    FALLBACK = "self"

    def __post_init__(self) -> None:
        super().__post_init__()
        good = self.generation == "sample" or self.step in DELIMITERS
        wanted = f"sample, unless steps end at a {' or '.join(DELIMITERS)}"
        require(good, "generation", self.generation, wanted)

    @property
    def idle(self) -> str | None:
        if self.proposals == 1:
            return "proposals=1 is one response, there is nothing to choose from"
        # No sampling makes the steps alike that the policy lists in one reply.
        return None if self.generation == "propose" else super().idle

    @property
    def needs_chat(self) -> bool:
        return self.evaluator == "self" or self.generation == "propose"


def tree_of_thought(problem: Problem, config: TreeOfThought) -> Method:
    """ToT-BFS (their Algorithm 1), ending with the best complete response it has judged.

    Votes compare the states of one level, so with votes it is the best of the last level.
    """
    search = _Thoughts(problem, config)
    grow = search.propose if config.generation == "propose" else None
    ended = yield from unless_cut(
        breadth_first(search.tree, config.breadth, config.proposals, search.evaluate, grow=grow)
    )
    return search.tree.outcome(search.tree.best(), ended)


class _Thoughts:
    """What the policy proposes and thinks of the steps of one problem."""

    def __init__(self, problem: Problem, config: TreeOfThought) -> None:
        self.problem, self.config = problem, config
        self.tree = Tree(problem, config.step_end, config.sampling, config.depth)

    def _ask(self, questions: Sequence[str], keys: Sequence[Key]) -> Part:
        config = self.config
        return ask(self.problem, questions, keys, config.sampling, config.reply_tokens, 512)

    def evaluate(self, nodes: list[Node]) -> Part:
        """Give nodes of one level their values."""
        if self.config.needs_reward:
            yield from self.tree.judge(nodes, self._rewarded)
        elif self.config.evaluation == "value":
            yield from self._value(nodes)
        else:
            yield from self._vote(nodes)

    def _rewarded(self, node: Node) -> float:
        """The value of a state by the reward model: its steps' scores as one."""
        return aggregated(self.config.step_score, [step.reward or 0.0 for step in node.path])

    def _value(self, nodes: list[Node]) -> Part:
        """The sum of the values of the words that the policy's replies end with."""
        count, fill = self.config.evaluations, self.config.fill
        questions = [
            fill("tot_value", self.problem, response=node.trajectory.text)
            for node in nodes
            for _ in range(count)
        ]
        keys = [self.problem.key / "value" / node.index / i for node in nodes for i in range(count)]
        words = map(word, (yield from self._ask(questions, keys)))
        for node in nodes:
            own = [next(words) for _ in range(count)]
            node.value = sum(WORDS[w] for w in own if w is not None)
            if None in own:
                node.remarks.append(f"{own.count(None)} valuations without a value")

    def _vote(self, nodes: list[Node]) -> Part:
        """The number of votes for each node, beside the others of its level."""
        shown = [f"Solution {i}:\n{node.trajectory.text}" for i, node in enumerate(nodes, 1)]
        question = self.config.fill("tot_vote", self.problem, responses="\n\n".join(shown))
        stream = self.problem.key / "vote" / nodes[0].index
        keys = [stream / i for i in range(self.config.evaluations)]
        replies = yield from self._ask([question] * len(keys), keys)
        votes = [choice(reply, len(nodes)) for reply in replies]
        for i, node in enumerate(nodes):
            node.value = float(votes.count(i))
        if None in votes:
            nodes[0].remarks.append(f"{votes.count(None)} votes for nothing")

    def propose(self, parents: list[Node], width: int) -> Part:
        """Next steps that the policy lists in one reply; the last level is sampled to its end."""
        known = len(self.tree.nodes)
        last = [parent for parent in parents if self.tree.last(parent)]
        if last:
            yield from self.tree.grow(last, width)
        asked = [parent for parent in parents if parent not in last]
        if not asked:
            return self.tree.nodes[known:]
        questions = [
            self.config.fill(
                "tot_propose", self.problem, response=node.trajectory.text, count=str(width)
            )
            for node in asked
        ]
        keys = [self.problem.key / "propose" / node.index for node in asked]
        replies = yield from self._ask(questions, keys)
        done: list[Node] = []
        steps: list[tuple[Node, str]] = []
        for parent, reply in zip(asked, replies, strict=True):
            lines = thoughts(reply)[:width]
            if lines == ["FINISHED"]:
                done += [] if parent is self.tree.root else [parent]
            elif not lines:
                parent.remarks.append(f"no proposals: {flaw(reply) or 'empty'}")
            else:
                steps += [(parent, text) for text in self._fitting(parent, lines)]
        if done:
            yield from self.tree.grow(done, 1, rest=True)
        if steps:
            written = yield [Replay(self.problem, text, parent.prefix) for parent, text in steps]
            self.tree.attach([parent for parent, _ in steps], written)
        return self.tree.nodes[known:]

    def _fitting(self, parent: Node, lines: list[str]) -> list[str]:
        """The steps that surely fit, a token being at least a byte of text."""
        room = self.problem.max_new_tokens - len(parent.trajectory.tokens)
        steps = [line + DELIMITERS[self.config.step] for line in lines]
        fitting = [step for step in steps if len(step.encode()) <= room]
        too_long = len(steps) - len(fitting)
        parent.remarks += ["a proposal too long for what is left"] * too_long
        return fitting


def word(reply: Trajectory | None) -> str | None:
    """The last of the three words in a reply, if any."""
    found = re.findall(r"\b(sure|likely|impossible)\b", spoken(reply).lower())
    return found[-1] if found else None


def choice(reply: Trajectory | None, count: int) -> int | None:
    """The number that a vote ends with, from 0; None where it names no state."""
    numbers = re.findall(r"\d+", spoken(reply))
    number = int(numbers[-1][:9]) if numbers else 0
    return number - 1 if 1 <= number <= count else None


def thoughts(reply: Trajectory | None) -> list[str]:
    """The lines of a reply that lists next steps."""
    if flaw(reply):
        return []
    return [line.strip() for line in spoken(reply).splitlines() if line.strip()]
