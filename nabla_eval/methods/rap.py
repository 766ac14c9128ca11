"""RAP: Monte Carlo tree search over reasoning steps (Hao et al. 2023)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.questions import Prompts, prefer
from nabla_eval.methods.samples import agreement, answer, mean, sigmoid
from nabla_eval.methods.search import Node, Tree, aggregated
from nabla_eval.options import Budget, Judged, Sampling, Steps, require
from nabla_eval.protocol import Method, Part, Problem
from nabla_eval.validation import LEAST, Count, Factor, Scale


@dataclass(frozen=True, kw_only=True)
class Rap(Judged, Steps, Sampling, Prompts, Budget):
    """Options of RAP; the defaults are those of its authors' code for GSM8K, but for sampling.

    10 iterations, 4 actions a state, at most 5 steps, exploration weight 1, the reward of a path
    the mean of its steps', Q the greatest reward of a path, two step rewards weighted 1/2 each in
    their exponents. Theirs samples at temperature 0.8 with top-p 0.95 and top-k 50.

    A step's reward is in [0, 1]: of evaluator=reward sigmoid(score / reward_scale), of likelihood
    the geometric mean of its tokens' probabilities, of self the policy's own P(Yes), of weighted
    their weighted geometric mean.
    """

    iterations: Count = 10
    branching: Count = 4  # d: steps sampled after a state
    depth: Count = 5  # steps of a response at most; the last one is all the rest
    exploration: Factor = 1.0  # w of UCT
    # auto: the reward model, and the likelihood where there is none.
    evaluator: Literal["auto", "reward", "likelihood", "self", "weighted"] = "auto"
    reward_weight: Factor = 0.5  # of evaluator=weighted, like the next two
    likelihood_weight: Factor = 0.5
    self_weight: Factor = 0.0
    reward_scale: Scale = 1.0
    step_score: Literal["last", "min", "mean", "prod", "sum"] = "mean"  # of a path's steps
    backup: Literal["max", "mean"] = "max"  # of Q over the paths through a step
    answer: Literal["best", "vote"] = "best"  # the best path, or RAP-Aggregation
    commit: bool = False  # move the root to its most visited child, and go on with that subtree

    FALLBACK = "likelihood"

    def __post_init__(self) -> None:
        super().__post_init__()
        some = sum(self.weights.values()) >= LEAST
        wanted = f"at least {LEAST:g}, or another weight"
        require(some, "reward_weight", self.reward_weight, wanted)

    @property
    def idle(self) -> str | None:
        if self.branching == 1:
            return "branching=1 is one response, there is nothing to search"
        return super().idle

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each part of a step's reward."""
        if self.evaluator == "weighted":
            weights = (self.reward_weight, self.likelihood_weight, self.self_weight)
            return dict(zip(("reward", "likelihood", "self"), weights, strict=True))
        return {"reward" if self.evaluator == "auto" else self.evaluator: 1.0}

    @property
    def needs_reward(self) -> bool:
        return self.weights.get("reward", 0.0) > 0

    @property
    def needs_chat(self) -> bool:
        return self.weights.get("self", 0.0) > 0


def rap(problem: Problem, config: Rap) -> Method:
    """The best complete path of the tree, or the answer whose steps have most reward together.

    Each iteration (their Algorithm 1): go down by UCT to a step that nothing follows yet; expand
    it; simulate, which is to follow the best child and expand it until a response is complete (all
    of this stays in the tree and is never sampled or judged again); back-propagate the reward of
    the path. RAP plans with sub-questions and a world model; here a step is a step of the response.
    """
    search = Search(problem, config)
    ended = yield from unless_cut(search.run())
    return search.tree.outcome(search.chosen(), ended)


class Search:
    """The tree of one problem and what its paths have returned."""

    def __init__(self, problem: Problem, config: Rap) -> None:
        self.problem, self.config = problem, config
        self.tree = Tree(problem, config.step_end, config.sampling, config.depth)
        self.root = self.tree.root
        self.returns: dict[Node, list[float]] = defaultdict(list)

    def run(self) -> Part:
        """All iterations; with `commit`, as many again at every step that is committed to."""
        while True:
            while self.root.visits < self.config.iterations:
                yield from self.iterate()
            if not self.config.commit or not self.root.children:
                return "done"
            # Its visits count: only the iterations that it lacks are added to its subtree.
            self.root = max(self.root.children, key=lambda n: (n.visits, self.value(n), -n.index))

    def iterate(self) -> Part:
        """Selection, expansion, simulation, back-propagation."""
        path = self.select()
        while path[-1].open:
            yield from self.expand(path[-1])
            if not path[-1].children:
                break
            path.append(max(path[-1].children, key=lambda node: (reward(node), -node.index)))
        self.back_up(path)

    def select(self) -> list[Node]:
        """From the root down, by UCT, to a step that nothing follows."""
        path = [self.root]
        while path[-1].children:
            parent = path[-1]
            path.append(max(parent.children, key=lambda n: (self.uct(parent, n), -n.index)))
        return path

    def uct(self, parent: Node, node: Node) -> float:
        """Q(s, a) + w sqrt(ln N(s) / max(1, N(s, a))); unvisited, Q is the reward."""
        bonus = math.sqrt(math.log(max(1, parent.visits)) / max(1, node.visits))
        return self.value(node) + self.config.exploration * bonus

    def value(self, node: Node) -> float:
        """Q of a step: the greatest or the mean reward of the paths through it."""
        seen = self.returns[node] or [reward(node)]
        return max(seen) if self.config.backup == "max" else mean(seen)

    def back_up(self, path: list[Node]) -> None:
        """Each step of a path receives the reward of the path from itself on."""
        for i, node in enumerate(path):
            node.visits += 1
            if node is not self.tree.root:
                self.returns[node].append(self.path_reward(path[i:]))

    def path_reward(self, path: Sequence[Node]) -> float:
        """One reward of successive steps."""
        rewards = [reward(node) for node in path]
        if self.config.step_score == "prod":  # of rewards in [0, 1], not of logits
            return math.prod(rewards)
        return aggregated(self.config.step_score, rewards)

    def expand(self, node: Node) -> Part:
        """Sample the next steps and judge them; malformed ones get no reward."""
        new = yield from self.tree.grow([node], self.config.branching)
        sound = [child for child in new if not child.note]
        for child in new:
            child.value = 0.0 if child.note else None
        if sound:
            yield from self.judge(sound)

    def judge(self, nodes: list[Node]) -> Part:
        """Ask for the parts of each step's reward that weigh something."""
        yield from self.tree.judge(nodes, self.step_reward, self.config.needs_reward)
        if self.config.needs_chat:
            questions = [
                self.config.fill(
                    "rap_step", self.problem, response=node.before, step=node.text.strip()
                )
                for node in nodes
            ]
            chances = yield from prefer(self.problem, questions, ("Yes", "No"))
            for node, chance in zip(nodes, chances, strict=True):
                node.value = self.step_reward(node, chance)

    def step_reward(self, node: Node, chance: float = 0.5) -> float:
        """The weighted geometric mean of the parts; `chance` is the policy's own P(Yes)."""
        parts = {
            "reward": sigmoid((node.reward or 0.0) / self.config.reward_scale),
            "likelihood": math.exp(node.log_likelihood),
            "self": chance,
        }
        return geometric(parts, self.config.weights)

    def chosen(self) -> Node:
        """The end of the answer's path."""
        leaves = [node for node in self.tree.nodes if node.finished and node.value is not None]
        if self.config.commit:
            leaves = [node for node in leaves if self.root in node.path] or leaves
        if not leaves:
            return self.tree.best()
        if self.config.answer == "vote":
            leaves = self._winners(leaves)
        return max(leaves, key=lambda node: (self.path_reward(node.path), -node.index))

    def _winners(self, leaves: list[Node]) -> list[Node]:
        """RAP-Aggregation (their section 3.4): each step of the tree adds its reward once to every
        answer that paths through it reach."""
        groups = agreement([answer(self.problem, node.trajectory) for node in leaves])
        if not groups:
            return leaves
        paths: dict[int, set[Node]] = defaultdict(set)
        for i, group in groups.items():
            paths[group].update(leaves[i].path)
        # `fsum` rounds once: sets have no order that is the same on every run.
        winner = max(paths, key=lambda group: math.fsum(map(reward, paths[group])))
        return [leaves[i] for i, group in groups.items() if group == winner]


def reward(node: Node) -> float:
    """A step's own reward; 0 where it has none."""
    return node.value or 0.0


def geometric(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Weighted geometric mean of values in [0, 1]; 0 where one that weighs something is 0."""
    weights = {name: weight for name, weight in weights.items() if weight > 0}
    if min(values[name] for name in weights) <= 0:
        return 0.0
    total = sum(weight * math.log(values[name]) for name, weight in weights.items())
    return math.exp(total / sum(weights.values()))
