"""Choices among scripted samples: which one is the answer, how they vote, and what was asked."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count

import pytest
from scripted_trees import PROBLEM, ScriptedTree, trajectory

from nabla_eval.engine.drive import drive_all
from nabla_eval.methods.baselines import WeightedBestOfN
from nabla_eval.methods.registry import configure, start
from nabla_eval.methods.samples import Pool, majority, self_certainty, vote
from nabla_eval.options import Sampling
from nabla_eval.protocol import RewardScore


def samples(answers, rewards=(), certainty=()):
    """Sample i begins with the i-th letter, and has the i-th answer, reward and certainty."""
    ends = [rf" \boxed{{{answer}}}" if answer else " no idea" for answer in answers]
    texts = ["abcd"[i] + end for i, end in enumerate(ends)]
    script, drawn = ScriptedTree(None, lambda text: rewards["abcd".index(text[0])]), count()

    def write(request):
        i = next(drawn)
        return replace(trajectory(texts[i]), certainty=certainty[i] if certainty else (0.0,))

    script.write, script.answers = write, answers
    return script


def solve(script, method="best_of_n", **options):
    options = {"n": len(script.answers), **options}
    (outcome,) = drive_all([start(PROBLEM, configure(method, options))], script)
    return "abcd".index(outcome.text[0]), outcome


@pytest.mark.parametrize(
    ("rewards", "options", "chosen", "drawn", "ended"),
    [
        ([0, 2, 2, 5], {"n": 3}, 1, 3, "budget"),  # the first maximum
        ([0, 2, 2, 5], {}, 3, 4, "budget"),
        ([0, 2, 2, 5], {"stop_reward": 1.5}, 1, 2, "reward"),
        ([0, 1, 2, 3], {"stop_reward": 1}, 1, 2, "reward"),  # a reward that equals it stops
        ([0, 1], {"stop_reward": 1}, 1, 2, "budget"),  # a last sample has used the budget
        ([0, 1], {"stop_reward": 5}, 1, 2, "budget"),
    ],
)
def test_the_best_sample_and_early_stopping(rewards, options, chosen, drawn, ended):
    script = samples("1" * len(rewards), rewards)
    index, outcome = solve(script, **options)
    assert (index, outcome.reward, outcome.ended) == (chosen, rewards[chosen], ended)
    each = ["Generate", "Score"]
    assert script.asked == (each * drawn if "stop_reward" in options else sorted(each * drawn))


@pytest.mark.parametrize("method", ["best_of_n", "weighted_best_of_n"])
def test_samples_are_drawn_side_by_side_unless_rewards_or_counts_may_end_it(method):
    together = samples("1234", [0.0] * 4)
    solve(together, method)
    assert together.asked == ["Generate"] * 4 + ["Score"] * 4
    for budget in ({"max_calls": 1000}, {"max_item_tokens": 1000}):
        singly = samples("1234", [0.0] * 4)
        solve(singly, method, **budget)
        assert singly.asked == ["Generate", "Score"] * 4
        unscored = samples("1234")
        solve(unscored, method, evaluator="self_certainty", **budget)
        assert unscored.asked == ["Generate"] * 4  # a count leaves nothing to decide between them


def test_without_a_reward_model_the_first_of_the_most_certain_is_taken():
    """Certainty is the mean over a sample's tokens, without what only rounding tells apart."""
    certainty = [(1.0, 2.0), (4.0,), (2.0, 2.0, 2.0, 2.0), (4.0 + 1e-12,)]
    index, outcome = solve(samples("1234", certainty=certainty), evaluator="self_certainty")
    assert index == 1 and outcome.reward is None
    assert self_certainty(trajectory("")) == 0.0


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [
        ("1223", 1),
        ("1221", 0),
        ("1233", 2),
        (["", "", "7"], 2),
        ([""] * 3, 0),
        (["3", "4", "4.0"], 1),
    ],
)
def test_the_majority_takes_its_first_sample(answers, chosen):
    assert solve(samples(answers), evaluator="majority")[0] == chosen
    assert solve(samples(answers), "self_consistency")[0] == chosen


def test_votes_add_up_and_the_first_seen_of_equals_wins():
    texts = [rf"\boxed{{{x}}}" for x in "12321"] + ["no idea"]
    assert vote(texts, [3, 2, 4, 2.5, 1, 99]) == [1, 3]  # 4, 4.5 and 4
    assert vote(texts, [3, 2, 4, 2, 1, 99]) == [0, 4]  # all 4
    assert vote(["no idea", ""], [1, 2]) == [0, 1]
    assert majority(texts) == 0


@pytest.mark.parametrize(
    ("rewards", "options", "chosen"),
    [
        ([2.0, 0.5, 1.0, -3.0], {}, 2),  # two with 2 weigh more; the better of them is later
        ([2.0, 0.5, 0.4, -3.0], {}, 1),  # 0.88 against 0.62 + 0.60
        ([2.0, 0.5, 0.4, -3.0], {"reward_scale": 0.1}, 1),  # 1.00 against 0.99 + 0.98
        ([2.0, 0.5, 0.4, -3.0], {"weighting": "softmax"}, 0),  # 1 against 0.22 + 0.20
        ([2.0, 0.5, 0.4, -3.0], {"weighting": "softmax", "reward_scale": 4.0}, 1),  # 0.69 + 0.67
    ],
)
def test_the_best_sample_of_the_heaviest_answer_is_taken(rewards, options, chosen):
    assert solve(samples("1223", rewards), "weighted_best_of_n", **options)[0] == chosen
    assert solve(samples("1223", rewards))[0] == 0


def test_certainties_vote_by_their_rank():
    """Ranks 4, 3, 2, 1: the two in the middle have 5 of 10 together, the first has 4."""
    script = samples("1223", certainty=[(9.0,), (3.0,), (2.0,), (1.0,)])
    assert solve(script, "weighted_best_of_n", evaluator="self_certainty")[0] == 1


def test_weights_are_the_formulas():
    scores = [1.0, -2.0, 3.0]
    of = lambda **options: WeightedBestOfN(**options).weights(scores)  # noqa: E731
    assert of() == pytest.approx([1 / (1 + math.exp(-s)) for s in scores])
    assert WeightedBestOfN().weights([-800.0, 800.0]) == pytest.approx([0, 1])  # no overflow
    assert of(reward_scale=2.0) == pytest.approx([1 / (1 + math.exp(-s / 2)) for s in scores])
    softmax = of(weighting="softmax", reward_scale=2.0)
    assert [w / sum(softmax) for w in softmax] == pytest.approx(
        [math.exp(s / 2) / sum(math.exp(t / 2) for t in scores) for s in scores]
    )
    assert of(weighting="borda") == [2, 1, 3]
    assert of(weighting="borda", borda_power=2.0) == [4, 1, 9]
    assert of(weighting="borda", borda_power=0.0) == [1, 1, 1]
    assert of(evaluator="self_certainty", borda_power=2.0) == [4, 1, 9]  # whatever the weighting
    assert WeightedBestOfN(weighting="borda").weights([1.0, 1.0]) == [2, 1]  # the first is ahead


def test_a_pool_reads_whole_samples_and_judges_the_rest():
    """A sample that a budget cut has no answer to read, and one of the greatest length has."""
    pool = Pool(replace(PROBLEM, max_new_tokens=4))
    pool.samples = [trajectory("four", "length"), trajectory("cut", "length"), trajectory("6")]
    assert pool.texts == ["four", "", "6"]
    pool.scores = [RewardScore(5.0)]
    assert [request.trajectory.text for request in next(pool.judge())] == ["cut", "6"]
    assert pool.best() == 0


def test_drafts_are_the_same_draws_for_every_method():
    """Common random numbers: ∇-Reasoner's draft is best-of-N's first, so comparisons are paired."""
    keys = set()
    for name in ("nabla", "best_of_n", "self_consistency", "greedy"):
        first = next(start(PROBLEM, configure(name, {})))[0]
        assert first.sampling == (Sampling(temperature=0.0) if name == "greedy" else Sampling())
        keys.add(first.key)
    assert len(keys) == 1
