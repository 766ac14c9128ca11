"""Tree of thought: breadth-first search over steps that are judged (Yao et al. 2023)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from nabla_eval.methods.beam import breadth_first
from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.steps import Node, Tree
from nabla_eval.methods.voices import Prompts, ask, flaw, reply_length, spoken
from nabla_eval.options import DELIMITERS, Budget, Sampling, Steps, require
from nabla_eval.protocol import Method, Part, Problem, Replay, Trajectory
from nabla_eval.validation import Count

# Yao et al.'s values of the words, in their code for the game of 24.
WORDS = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}


@dataclass(frozen=True, kw_only=True)
class TreeOfThought(Steps, Sampling, Prompts, Budget):
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
        require(
            self.generation == "sample" or self.step in DELIMITERS,
            "generation",
            self.generation,
            f"sample, unless steps end at a {' or '.join(DELIMITERS)}",
        )

    @property
    def idle(self) -> str | None:
        if self.proposals == 1:
            return "proposals=1 is one response, there is nothing to choose from"
        # No sampling makes the steps alike that the policy lists in one reply.
        return None if self.generation == "propose" else super().idle

    @property
    def needs_reward(self) -> bool:
        """Return whether responses are scored."""
        return self.evaluator in ("auto", "reward")

    @property
    def needs_chat(self) -> bool:
        """Return whether the policy is asked in words."""
        return self.evaluator == "self" or self.generation == "propose"


def tree_of_thought(problem: Problem, config: TreeOfThought) -> Method:
    """ToT-BFS (their Algorithm 1), ending with the best complete response it has judged.

    Votes compare the states of one level, so with votes it is the best of the last level.
    """
    search = _Search(problem, config)
    ended = yield from unless_cut(
        breadth_first(
            search.tree,
            config.breadth,
            config.proposals,
            search.evaluate,
            grow=search.propose if config.generation == "propose" else None,
        )
    )
    return search.tree.outcome(search.tree.best(), ended)


class _Search:
    def __init__(self, problem: Problem, config: TreeOfThought) -> None:
        self.problem, self.config = problem, config
        self.tree = Tree(problem, config.step_end, config.sampling, config.depth)

    def evaluate(self, nodes: list[Node]) -> Part:
        """Give nodes of one level their values."""
        if self.config.needs_reward:
            try:
                yield from self.tree.judge(nodes)
            finally:
                for node in nodes:
                    node.value = node.reward
        elif self.config.evaluation == "value":
            yield from self._value(nodes)
        else:
            yield from self._vote(nodes)

    def _value(self, nodes: list[Node]) -> Part:
        """The sum of the values of the words that the policy's replies end with."""
        count = self.config.evaluations
        fill = self.config.fill
        questions = [
            fill("tot_value", question=self.problem.question, response=_text(node))
            for node in nodes
        ]
        keys = [self.problem.key / "value" / node.index / i for node in nodes for i in range(count)]
        replies = yield from self._ask([q for q in questions for _ in range(count)], keys)
        for at, node in enumerate(nodes):
            own = [word(reply) for reply in replies[at * count : (at + 1) * count]]
            node.value = sum(WORDS[w] for w in own if w is not None)
            if None in own:
                self._complain(node, f"{own.count(None)} valuations without a value")

    def _vote(self, nodes: list[Node]) -> Part:
        """The number of votes for each node, beside the others of its level."""
        count = self.config.evaluations
        shown = [f"Solution {i + 1}:\n{_text(node)}" for i, node in enumerate(nodes)]
        question = self.config.fill(
            "tot_vote", question=self.problem.question, responses="\n\n".join(shown)
        )
        level = nodes[0].index
        keys = [self.problem.key / "vote" / level / i for i in range(count)]
        replies = yield from self._ask([question] * count, keys)
        votes = [choice(reply, len(nodes)) for reply in replies]
        for i, node in enumerate(nodes):
            node.value = float(votes.count(i))
        if None in votes:
            self._complain(nodes[0], f"{votes.count(None)} votes for nothing")

    def _ask(self, questions: list[str], keys: list) -> Part:
        longest = reply_length(self.problem, self.config.reply_tokens, 512)
        return ask(self.problem, questions, keys, self.config.sampling, longest)

    def _complain(self, node: Node, what: str) -> None:
        node.remarks = f"{node.remarks}; {what}" if node.remarks else what

    def propose(self, parents: list[Node], width: int) -> Part:
        """Next steps that the policy lists in one reply; the last level is sampled to its end."""
        last = [parent for parent in parents if parent.depth + 1 >= self.config.depth]
        new = (yield from self.tree.grow(last, width)) if last else []
        asked = [parent for parent in parents if parent not in last]
        if not asked:
            return new
        questions = [
            self.config.fill(
                "tot_propose",
                question=self.problem.question,
                response=_text(parent),
                count=str(width),
            )
            for parent in asked
        ]
        keys = [self.problem.key / "propose" / parent.index for parent in asked]
        replies = yield from self._ask(questions, keys)
        places, texts, done = [], [], []
        for parent, reply in zip(asked, replies, strict=True):
            lines = thoughts(reply)[:width]
            if lines == ["FINISHED"] and parent.trajectory is not None:
                done.append(parent)
            elif flaw(reply) or not lines:
                self._complain(parent, f"no proposals: {flaw(reply) or 'empty'}")
            for line in lines if lines != ["FINISHED"] else []:
                if self._room(parent, line):
                    places.append(parent)
                    texts.append(line + self.ending)
        if done:
            new += yield from self.tree.grow(done, 1, whole=True)
        if places:
            written: list[Trajectory] = yield [
                Replay(self.problem, text, parent.trajectory)
                for parent, text in zip(places, texts, strict=True)
            ]
            new += self.tree.attach(places, written)
        return new

    def _room(self, parent: Node, line: str) -> bool:
        """Return whether a step surely fits, a token being at least a byte of text."""
        given = 0 if parent.trajectory is None else len(parent.trajectory.tokens)
        fits = given + len((line + self.ending).encode()) <= self.problem.max_new_tokens
        if not fits:
            self._complain(parent, "a proposal too long for what is left")
        return fits

    @property
    def ending(self) -> str:
        """Return what ends a step that was written as a line of a list."""
        return DELIMITERS[self.config.step]


def _text(node: Node) -> str:
    return "" if node.trajectory is None else node.trajectory.text


def word(reply: Trajectory | None) -> str | None:
    """The last of the three words in a reply, if any."""
    if reply is None:
        return None
    found = re.findall(r"\b(sure|likely|impossible)\b", spoken(reply).lower())
    return found[-1] if found else None


def choice(reply: Trajectory | None, count: int) -> int | None:
    """The number that a vote ends with, from 0; None where it names no state."""
    numbers = re.findall(r"\d+", spoken(reply)) if reply is not None else []
    number = int(numbers[-1][:9]) if numbers else 0
    return number - 1 if 1 <= number <= count else None


def thoughts(reply: Trajectory | None) -> list[str]:
    """The lines of a reply that lists next steps."""
    if reply is None or flaw(reply):
        return []
    return [line.strip() for line in spoken(reply).splitlines() if line.strip()]
