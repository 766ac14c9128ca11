"""Best-of-N and its weighted votes with scripted samples: which one is chosen, and what was asked.

Answers, rewards and certainties of the samples are given, so that every choice is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from nabla_eval.cost.ledger import Ledger
from nabla_eval.engine.drive import drive_all
from nabla_eval.errors import ConfigError
from nabla_eval.methods.baselines import WeightedBestOfN
from nabla_eval.methods.registry import configure, start
from nabla_eval.methods.samples import Pool, majority, self_certainty, sigmoid, vote
from nabla_eval.protocol import Generate, Problem, RewardScore, TemplateAffixes, Trajectory
from nabla_eval.randomness import Key

PROBLEM = Problem(Key.root(0) / "p", (1,), TemplateAffixes((), ()), 4, id="p")


def sample(index: int, text: str, certainty: Sequence[float], stop: Any = "eos") -> Trajectory:
    two = (0.0, 0.0)
    return Trajectory(
        (index, 9), text, 1, stop, (index, 9), two, two, Key.root(0), two, tuple(certainty),
        cost=Ledger(generated_tokens=2),
    )  # fmt: skip


class Samples:
    """Sample i has the i-th answer, reward and certainty; how many are asked for is noted."""

    def __init__(
        self,
        answers: Sequence[str],
        rewards: Sequence[float] = (),
        certainty: Sequence[Sequence[float]] = (),
    ) -> None:
        self.answers, self.rewards, self.certainty = answers, rewards, certainty
        self.asked: list[tuple[str, int]] = []
        self.drawn = 0

    def __call__(self, requests: Sequence[Any]) -> list[Any]:
        self.asked.append((type(requests[0]).__name__, len(requests)))
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        if not isinstance(request, Generate):
            return RewardScore(self.rewards[request.trajectory.tokens[0]], cost=Ledger(scorings=1))
        i, self.drawn = self.drawn, self.drawn + 1
        text = rf"\boxed{{{self.answers[i]}}}" if self.answers[i] else "no idea"
        return sample(i, text, self.certainty[i] if self.certainty else (0.0,))


def solve(samples: Samples, method: str = "best_of_n", **options: Any) -> Any:
    options = {"n": len(samples.answers), **options}
    (outcome,) = drive_all([start(PROBLEM, configure(method, options))], samples)
    return outcome


def test_a_reward_that_equals_stop_reward_stops() -> None:
    samples = Samples("1234", [0.0, 1.0, 2.0, 3.0])
    outcome = solve(samples, stop_reward=1.0)
    assert (outcome.tokens[0], outcome.reward, outcome.ended) == (1, 1.0, "reward")
    assert samples.asked == [("Generate", 1), ("Score", 1)] * 2


def test_a_last_sample_that_is_good_enough_has_used_the_budget() -> None:
    assert solve(Samples("12", [0.0, 1.0]), stop_reward=1.0).ended == "budget"
    assert solve(Samples("12", [0.0, 1.0]), stop_reward=5.0).ended == "budget"


@pytest.mark.parametrize("method", ["best_of_n", "weighted_best_of_n"])
def test_samples_are_drawn_side_by_side_unless_rewards_or_counts_may_end_it(method: str) -> None:
    together = Samples("1234", [0.0] * 4)
    solve(together, method)
    assert together.asked == [("Generate", 4), ("Score", 4)]
    for budget in ({"max_calls": 100}, {"max_item_tokens": 100}):
        singly = Samples("1234", [0.0] * 4)
        solve(singly, method, **budget)
        assert singly.asked == [("Generate", 1), ("Score", 1)] * 4
        unscored = Samples("1234")
        solve(unscored, method, evaluator="self_certainty", **budget)
        assert unscored.asked == [("Generate", 4)]  # a count leaves nothing to decide between them


def test_without_a_reward_model_the_first_of_the_most_certain_is_taken() -> None:
    """Certainty is the mean over a sample's tokens, without what only rounding tells apart."""
    certainty = [(1.0, 2.0), (4.0,), (2.0, 2.0, 2.0, 2.0), (4.0 + 1e-12,)]
    samples = Samples("1234", certainty=certainty)
    outcome = solve(samples, evaluator="self_certainty")
    assert outcome.tokens[0] == 1 and outcome.reward is None
    assert self_certainty(sample(0, "", ())) == 0.0


@pytest.mark.parametrize(
    ("answers", "chosen"),
    [("1223", 1), ("1221", 0), ("1233", 2), (["", "", "7"], 2), ([""] * 3, 0)],
)
def test_the_majority_takes_its_first_sample(answers: Sequence[str], chosen: int) -> None:
    assert solve(Samples(answers), evaluator="majority").tokens[0] == chosen
    assert solve(Samples(answers), "self_consistency").tokens[0] == chosen


def test_votes_add_up_and_the_first_seen_of_equals_wins() -> None:
    texts = [rf"\boxed{{{x}}}" for x in "12321"] + ["no idea"]
    assert vote(texts, [3, 2, 4, 2.5, 1, 99]) == [1, 3]  # 4, 4.5 and 4
    assert vote(texts, [3, 2, 4, 2, 1, 99]) == [0, 4]  # all 4
    assert vote(["no idea", ""], [1, 2]) == [0, 1]
    assert majority(texts) == 0


def test_the_best_sample_of_the_heaviest_answer_is_taken() -> None:
    """Two samples with 2 weigh more than the best one of all, and the better of them is later."""
    samples = Samples("1223", [2.0, 0.5, 1.0, -3.0])
    assert solve(samples, "weighted_best_of_n").tokens[0] == 2
    assert solve(Samples("1223", [2.0, 0.5, 1.0, -3.0])).tokens[0] == 0


def test_a_scale_decides_how_much_one_good_sample_outweighs_two() -> None:
    rewards = [2.0, 0.5, 0.4, -3.0]
    for weighting, scale, chosen in [
        ("sigmoid", 1.0, 1),  # 0.88 against 0.62 + 0.60
        ("sigmoid", 0.1, 1),  # 1.00 against 0.99 + 0.98
        ("softmax", 1.0, 0),  # 1 against 0.22 + 0.20
        ("softmax", 4.0, 1),  # 1 against 0.69 + 0.67
    ]:
        options = {"weighting": weighting, "reward_scale": scale}
        outcome = solve(Samples("1223", rewards), "weighted_best_of_n", **options)
        assert outcome.tokens[0] == chosen, options


def test_weights_are_the_formulas() -> None:
    scores = [1.0, -2.0, 3.0]
    of = lambda **options: WeightedBestOfN(**options).weights(scores)  # noqa: E731
    assert of() == pytest.approx([1 / (1 + math.exp(-s)) for s in scores])
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


def test_certainties_vote_by_their_rank() -> None:
    """Ranks 4, 3, 2, 1: the two in the middle have 5 of 10 together, the first has 4."""
    certainty = [(9.0,), (3.0,), (2.0,), (1.0,)]
    samples = Samples("1223", certainty=certainty)
    assert solve(samples, "weighted_best_of_n", evaluator="self_certainty").tokens[0] == 1


@pytest.mark.parametrize("x", [-800.0, -2.0, 0.0, 2.0, 800.0])
def test_the_sigmoid_does_not_overflow(x: float) -> None:
    assert sigmoid(x) + sigmoid(-x) == pytest.approx(1)
    assert sigmoid(x) == pytest.approx(0.5 * (1 + math.tanh(x / 2)))


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("weighted_best_of_n", "reward_scale", 0.0),
        ("weighted_best_of_n", "reward_scale", math.inf),
        ("weighted_best_of_n", "borda_power", -1.0),
        ("weighted_best_of_n", "n", 0),
        ("best_of_n", "n", 0),
    ],
)
def test_options_out_of_range_are_refused(method: str, option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=option):
        configure(method, {option: value})


def test_nothing_stops_at_a_reward_that_nobody_gives() -> None:
    with pytest.raises(ConfigError, match="stop_reward"):
        configure("best_of_n", {"evaluator": "majority", "stop_reward": 1.0})
    configure("best_of_n", {"evaluator": "auto", "stop_reward": 1.0})


def test_a_sample_that_a_budget_cut_has_no_answer_to_read_and_a_long_one_has() -> None:
    pool = Pool(PROBLEM)
    whole, cut = sample(0, "4", (), "length"), sample(1, "5", (), "length")
    pool.samples = [
        Trajectory(**{**vars(whole), "tokens": (1, 2, 3, 4)}),  # as long as the problem allows
        cut,
        sample(2, "6", (), "stop"),
    ]
    assert pool.texts == ["4", "", "6"]


def test_only_samples_that_are_not_judged_yet_are_judged() -> None:
    samples, pool = Samples("12", [1.0, 2.0]), Pool(PROBLEM)
    pool.samples = [sample(i, "", ()) for i in range(2)]
    pool.scores = [RewardScore(5.0)]
    asked = next(pool.judge())
    assert [request.trajectory.tokens[0] for request in asked] == [1]
    assert samples.asked == [] and pool.best() == 0
