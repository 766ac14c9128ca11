"""RAP by hand: visit counts and values of a small tree, and UCT's rate on bandits."""

from __future__ import annotations

import math

import pytest
from scripted_trees import PROBLEM, SEMICOLON, ScriptedTree, trajectory

from nabla_eval.engine.drive import drive_all
from nabla_eval.methods.rap import Rap, Search, geometric
from nabla_eval.methods.registry import configure, start
from nabla_eval.methods.search import Node
from nabla_eval.randomness import Key


def logit(p):
    return math.log(p / (1 - p))


def solve(script, **options):
    config = configure("rap", {**SEMICOLON, **options})
    (outcome,) = drive_all([start(PROBLEM, config)], script)
    return outcome


TREE = {"": "a;b;", "a;": "c.d.", "b;": "e.f."}
WORTH = {"a;": 0.6, "b;": 0.5, "a;c.": 0.2, "a;d.": 0.1, "b;e.": 0.9, "b;f.": 0.3}


def hand_tree():
    return ScriptedTree(lambda text, i: TREE[text][2 * i : 2 * i + 2],
                        lambda text: logit(WORTH[text]))  # fmt: skip


def test_visits_and_values_equal_a_trace_by_hand():
    """w = 1, Q the mean of path returns, the mean reward of the steps from a node on.

    1. root -> a (0.6 > 0.5) -> c (0.2 > 0.1).     Returns: a (0.6 + 0.2)/2 = 0.4, c 0.2.
    2. N(root) = 1, ln 1 = 0: b 0.5 > a 0.4 -> b -> e.   b (0.5 + 0.9)/2 = 0.7, e 0.9.
    3. ln 2 = 0.693, bonus 0.833 for both: b 0.7 + .. > a 0.4 + ..; below b (N = 1, bonus 0):
       e 0.9 > f 0.3 -> e, complete: nothing is asked.   b (0.7 + 0.7)/2 = 0.7, e 0.9.
    4. ln 3 = 1.099: a 0.4 + 1.048 > b 0.7 + sqrt(1.099/2) = 1.441 -> a; below a (N = 1, bonus 0):
       c 0.2 > d 0.1 -> c.   a 0.4, c 0.2.
    """
    script = hand_tree()
    outcome = solve(script, iterations=4, branching=2, backup="mean")
    visits = {s.text: s.visits for s in outcome.steps}
    assert visits == {"a;": 2, "b;": 2, "c.": 2, "d.": 0, "e.": 2, "f.": 0}
    assert outcome.text == "b;e." and outcome.ended == "done"
    assert sorted(script.scored) == sorted(WORTH)  # each once: the subtree is reused

    config = configure("rap", {**SEMICOLON, "iterations": 4, "branching": 2, "backup": "mean"})
    search = Search(PROBLEM, config)
    part = search.run()
    request = next(part)
    with pytest.raises(StopIteration):
        again = hand_tree()
        while True:
            request = part.send(again(request))
    values = {node.text: search.value(node) for node in search.tree.nodes}
    expected = {"a;": 0.4, "b;": 0.7, "c.": 0.2, "d.": 0.1, "e.": 0.9, "f.": 0.3}
    assert values == pytest.approx(expected)
    assert search.root.visits == 4


@pytest.mark.parametrize(
    ("rule", "value"),
    [("last", 0.3), ("min", 0.2), ("mean", 1 / 3), ("prod", 0.03), ("sum", 1.0)],
)
def test_a_path_s_reward_is_of_its_steps(rule, value):
    search = Search(PROBLEM, configure("rap", {**SEMICOLON, "step_score": rule}))
    path = [Node(i, None, trajectory("a"), value=v) for i, v in enumerate((0.5, 0.2, 0.3))]
    assert search.path_reward(path) == pytest.approx(value)


def bandit(means, reward=None):
    """One level of complete responses: a bandit, whose arms are the letters."""

    def worth(text):
        return logit(means[ord(text[0]) - ord("a")])

    return ScriptedTree(lambda text, i: f"{chr(ord('a') + i)}.", worth)


@pytest.mark.parametrize("exploration", [0.25, 1.0])
def test_certain_arms_are_visited_at_the_rate_of_uct(exploration):
    """With rewards that do not vary, an arm of gap D is visited at most w^2 ln(n) / D^2 + 1 times.

    It is chosen at N(root) = t with T visits only if Q + w sqrt(ln t / T) >= Q* + w sqrt(ln t / T*)
    > Q*, so D < w sqrt(ln t / T). (Exact for every n: nothing is left to chance.) So the share of
    the best arm tends to 1.
    """
    means, n = [0.3, 0.8, 0.5, 0.6], 2000
    config = Rap(iterations=n, branching=4, depth=1, exploration=exploration, evaluator="reward")
    search = Search(PROBLEM, config)
    for _ in drive_part(search.run(), bandit(means)):
        pass
    visits = [node.visits for node in search.tree.nodes]
    assert sum(visits) == n and search.chosen().text == "b."
    for mean, count in zip(means, visits, strict=True):
        if mean != 0.8:
            assert count <= exploration**2 * math.log(n) / (0.8 - mean) ** 2 + 1
    assert visits[1] > {0.25: 0.97, 1.0: 0.82}[exploration] * n


def drive_part(part, script):
    requests = next(part)
    while True:
        try:
            requests = part.send(script(requests))
        except StopIteration:
            return
        yield requests


def test_noisy_arms_keep_ucb1s_bound():
    """Bernoulli rewards, w = sqrt(2): E T <= 8 ln n / D^2 + 1 + pi^2/3 (Auer et al. 2002, thm 1).

    The mean of T over keyed runs stays below the bound on its expectation plus a margin m. T is in
    [0, n], so by Hoeffding a false alarm has probability exp(-2 runs (m / n)^2) = 1e-4. Visiting
    both arms alike, n / 2 each, would fail.
    """
    n, runs, means = 400, 100, (0.1, 0.9)
    total = 0
    for run in range(runs):
        config = Rap(iterations=n, branching=2, depth=1, exploration=math.sqrt(2), backup="mean")
        search = Search(PROBLEM, config)
        part = drive_part(search.iterate(), bandit([0.4, 0.6]))
        for _ in part:
            pass
        arms = search.tree.nodes
        for node in arms:
            search.returns[node].clear()
            node.visits = 0
        search.root.visits = 0
        for at in range(n):
            untried = [node for node in arms if not node.visits]
            path = [search.root, untried[0]] if untried else search.select()
            arm = arms.index(path[1])
            drawn = (Key.root(5) / run / at).uniform() < means[arm]
            path[1].value = float(drawn)
            search.back_up(path)
        total += arms[0].visits
    bound = 8 * math.log(n) / 0.8**2 + 1 + math.pi**2 / 3
    margin = n * math.sqrt(math.log(1e4) / (2 * runs))
    assert total / runs < bound + margin < n / 2


def test_the_parts_of_a_reward_are_weighted_in_the_exponent():
    likes = lambda question, answer: 0.0 if answer == "Yes" else -math.log(3)  # noqa: E731
    script = ScriptedTree(lambda text, i: "a.", lambda text: logit(0.5), likes=likes)
    outcome = solve(
        script, branching=1, evaluator="weighted", reward_weight=2, self_weight=1,
        likelihood_weight=1,
    )  # fmt: skip
    expected = (0.5**2 * 0.75 * math.exp(-1)) ** 0.25  # P(Yes) = 3/4, e^-1 a token
    assert outcome.steps[0].value == pytest.approx(expected)
    assert script.asked.count("Replay") == 2 and "What?" in script.questions[0]
    assert geometric({"reward": 0.0, "self": 0.5}, {"reward": 1.0, "self": 1.0}) == 0.0


def test_the_vote_adds_each_step_once_to_every_answer_behind_it():
    tree = {"": ["a;", "b;"], "a;": ["\\boxed{1}", "x \\boxed{2}"],
            "b;": ["y \\boxed{2}", "z \\boxed{3}"]}  # fmt: skip
    worth = {"a;\\boxed{1}": 0.8}
    script = ScriptedTree(lambda text, i: tree[text][i], lambda t: logit(worth.get(t, 0.6)))
    best = solve(script, iterations=6, branching=2)
    script = ScriptedTree(lambda text, i: tree[text][i], lambda t: logit(worth.get(t, 0.6)))
    vote = solve(script, iterations=6, branching=2, answer="vote")
    assert best.text == "a;\\boxed{1}" and "\\boxed{2}" in vote.text


def test_a_committed_root_keeps_its_subtree():
    script = hand_tree()
    outcome = solve(script, iterations=4, branching=2, backup="mean", commit=True)
    assert sorted(script.scored) == sorted(WORTH) and outcome.text in ("b;e.", "a;c.")
    visits = {s.text: s.visits for s in outcome.steps}
    committed = outcome.text[:2]
    assert visits[committed] == 4 and visits[outcome.text[2:]] == 4


def test_the_root_moves_to_the_most_visited_child_and_to_the_better_of_two():
    for visits, returns, chosen in [((3, 2), (0.2, 0.9), 0), ((2, 2), (0.2, 0.9), 1)]:
        search = Search(PROBLEM, Rap(iterations=2, commit=True, evaluator="reward"))
        children = [Node(i, search.root, trajectory(text)) for i, text in enumerate(("a.", "b."))]
        search.root.children, search.root.visits = children, 5
        for child, count, value in zip(children, visits, returns, strict=True):
            child.visits = count
            search.returns[child].append(value)
        with pytest.raises(StopIteration):
            next(search.run())
        assert search.root is children[chosen]
