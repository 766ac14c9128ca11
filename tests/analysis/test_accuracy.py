"""Accuracy, differences, pass@k, majority votes, costs, AUC; runs that would make a wrong table."""

from __future__ import annotations

import itertools
import math
from statistics import mean

import numpy as np
import pytest
from pandas import DataFrame
from run_folders import BEST_OF_N, NABLA, as_run, record
from scipy import stats

from nabla_eval.analysis.accuracy import (
    accuracy,
    difference,
    majority,
    majority_accuracy,
    pass_at,
    pass_at_k,
)
from nabla_eval.analysis.calibration import (
    auc,
    calibration,
    drafted_answers,
    final_answers,
    reliability,
)
from nabla_eval.analysis.cost import COSTS, correct_per_cost, costs
from nabla_eval.analysis.grades import Graded, graded
from nabla_eval.analysis.intervals import wilson
from nabla_eval.analysis.runs import Run
from nabla_eval.errors import DataError
from nabla_eval.randomness import Key
from nabla_eval.traces.index import shortened


def line(doc: int, repeat: int = 0, **changes):
    return record(doc, repeat, task="t", calls=10.0 * (doc + 1), **changes)


def test_accuracy_of_single_runs_is_wilsons_and_copied_runs_tell_nothing_new():
    single = {f"t/{i}": [float(i % 4 == 0)] for i in range(40)}
    found = accuracy(single)
    assert found.interval == pytest.approx(wilson(10, 40, freedom=39).interval)
    assert found.value == 0.25 and found.clusters == 40
    assert accuracy({problem: runs * 2 for problem, runs in single.items()}) == found


def test_scores_of_another_scale_have_a_t_interval():
    a = {f"t/{i}": [10.0 * i] for i in range(5)}
    b = {f"t/{i}": [float(i)] for i in range(5)}
    expected = stats.ttest_1samp([0.0, 10, 20, 30, 40], 0).confidence_interval()
    assert accuracy(a).interval == pytest.approx((expected.low, expected.high))
    expected = stats.ttest_1samp([0.0, 9, 18, 27, 36], 0).confidence_interval()
    assert difference(a, b).estimate.interval == pytest.approx((expected.low, expected.high))


def test_a_difference_counts_wins_and_losses():
    a = {f"t/{i}": [score] for i, score in enumerate([1.0, 1.0, 0.0, 1.0])}
    b = {f"t/{i}": [score] for i, score in enumerate([0.0, 1.0, 1.0, 0.0])}
    found = difference(a, b)
    assert (found.wins, found.losses) == (2, 1)
    assert found.estimate.value == 0.25
    assert found.estimate.se == pytest.approx(stats.sem([1.0, 0.0, -1.0, 1.0]))
    assert -1 < found.estimate.low < 0.25 < found.estimate.high < 1
    with pytest.raises(DataError, match="cannot be paired"):
        difference(a, {"t/0": [1.0]})


def test_equal_answers_do_not_prove_equality():
    same = {f"t/{i}": [1.0] for i in range(5)}
    found = difference(same, same).estimate
    bound = wilson(0, 5, freedom=4).high
    assert found.value == 0 and found.interval == pytest.approx((-bound, bound))


def test_a_run_knows_its_method_and_costs_are_means_over_problems():
    run = as_run([line(0), line(1), line(2, 0), line(2, 1)])
    assert run.method == "nabla" and run.config == NABLA and (run.task, run.n) == ("t", 8)
    found = costs(run)
    assert found["model_calls"].value == 20 and found["model_calls"].clusters == 3
    assert found["generated_tokens"].value == 20 and found["seconds"].value == 0.5
    assert found.keys() == set(COSTS)


def test_correct_answers_per_call():
    records = [line(i) for i in range(4)]  # 10, 20, 30 and 40 calls
    scores = {f"t/{i}": [float(i != 3)] for i in range(4)}
    found = correct_per_cost(as_run(records, scores))
    assert found.value == pytest.approx(3 / 100) and found.low < 3 / 100 < found.high
    with pytest.raises(DataError, match="cannot be paired"):
        as_run(records, {"t/0": [1.0]})


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no records"),
        ([line(0), line(1, method="greedy")], "mixes 2 values of method: greedy, nabla"),
        ([line(0), line(1, config_hash="d")], "mixes 2 values of config_hash"),
        ([line(0), line(1, models={"policy": "x"})], "mixes 2 values of models"),
        ([line(0), line(1), line(1)], "answers 't/1/0' twice"),
        ([line(0)], "differ in 1 problems"),
    ],
)
def test_runs_that_would_make_a_wrong_table_are_refused(records, message):
    with pytest.raises(DataError, match=message):
        Run.of("r", records, {"t/0": [1.0], "t/1": [0.0]}, 1.0)


def repeated(texts, scores, prompt="1+1?", **changes) -> Run:
    """A run of one problem per list of texts."""
    records = [
        record(i, repeat, text=text, reward=float(repeat), prompt=prompt)
        for i, group in enumerate(texts)
        for repeat, text in enumerate(group)
    ]
    return Run.of("r", records, {f"toy/{i}": s for i, s in enumerate(scores)}, 1.0, **changes)


@pytest.mark.parametrize("right", range(6))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(right):
    answers = [1] * right + [0] * (5 - right)
    for k in range(1, 6):
        subsets = list(itertools.combinations(answers, k))
        assert pass_at_k(right, 5, k) == pytest.approx(mean(map(max, subsets)))
    with pytest.raises(DataError, match="needs 6 answers"):
        pass_at_k(right, 5, 6)


def test_pass_at_reads_single_scores_and_means():
    single = {"a": [1.0, 0.0, 0.0, 0.0], "b": [0.0] * 4}
    pooled = {"a": [0.25] * 4, "b": [0.0] * 4}
    for k in (1, 2, 4):
        expected = (pass_at_k(1, 4, k) + 0) / 2
        assert pass_at(single, k).value == pytest.approx(expected)
        assert pass_at(pooled, k).value == pytest.approx(expected)
    with pytest.raises(DataError, match="graded in parts"):
        pass_at({"a": [0.3] * 4}, 2)


def test_majority_breaks_ties_by_lot_and_ignores_missing_answers():
    assert majority([("x", 1.0), ("x", 1.0), ("y", 0.0)]) == 1.0
    assert majority([("x", 1.0), ("y", 0.0)]) == 0.5
    assert majority([(None, 0.0), (None, 0.0), ("x", 1.0)]) == 1.0
    assert majority([(None, 0.0)]) == 0.0 and math.isnan(majority([]))


def test_maj_at_k_groups_equal_answers():
    texts = [[r"\boxed{1/2}", r"\boxed{0.5}", r"\boxed{3}"], [r"\boxed{7}"] * 3]
    run = repeated(texts, [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = majority_accuracy(run)
    assert found is not None and found.value == 0.5
    mixed = repeated(texts, [[2 / 3], [0.0]])
    assert final_answers(mixed).empty and majority_accuracy(mixed) is None
    reported = repeated(texts, [[2 / 3], [0.0]], metrics={"maj@3": {"toy/0": [1], "toy/1": [1]}})
    assert majority_accuracy(reported).value == 1.0
    assert majority_accuracy(repeated([["1"]], [[1.0]])) is None


def test_thoughts_that_the_prompt_opened_and_that_were_cut_off_are_no_answers():
    """In votes, among graded drafts, and in the story of a response."""
    texts = [[r"\boxed{1}", r"\boxed{1}", r"\boxed{1}</think>\boxed{2}"]]
    for opening, share in (("", 0.0), ("<think>\n", 1.0)):
        prompt = f"1+1?{opening}"
        run = repeated(texts, [[0.0, 0.0, 1.0]], prompt=prompt, docs={"toy/0": {}})
        assert majority_accuracy(run).value == share
        seen = []
        judge = lambda doc, text: Graded(seen.append(text) is None)  # noqa: E731, B023
        drafted_answers(run, judge)
        graded(shortened(run.answers["record"][0]), {}, {"toy/0": {}}, judge)
        assert {*seen} == ({"", r"\boxed{2}"} if opening else {*texts[0]})


def test_answers_carry_reward_and_score():
    run = repeated([["a", "b"], ["c", "d"]], [[1.0, 0.0], [1.0]])
    assert final_answers(run).values.tolist() == [
        ["toy/0", "toy/0/0", 0.0, True], ["toy/0", "toy/0/1", 1.0, False],
        ["toy/1", "toy/1/0", 0.0, True], ["toy/1", "toy/1/1", 1.0, True],
    ]  # fmt: skip
    drafts = record(0, method="best_of_n", config=BEST_OF_N, drafts=[0.5, None, 2.0], text="t")
    asked = []

    def grade(item, text):
        asked.append(text)
        return item["target"] == text

    best = Run.of("b", [drafts], {"toy/0": [1.0]}, 1.0, docs={"toy/0": {"doc": {}, "target": "t2"}})
    assert drafted_answers(best, grade).values.tolist() == [
        ["toy/0", "toy/0/0", 0.5, False], ["toy/0", "toy/0/0", 2.0, True],
    ]  # fmt: skip
    assert asked == ["t", "t2"]


def answers_of(rows) -> DataFrame:
    return DataFrame(list(rows), columns=["problem", "reward", "right"])


def test_auc_is_the_share_of_pairs_with_ties_as_halves():
    rewards = [1.0, 2.0, 2.0, 3.0, 0.0, 2.0]
    right = [False, True, False, True, True, False]
    statistic = stats.mannwhitneyu(
        [r for r, ok in zip(rewards, right, strict=True) if ok],
        [r for r, ok in zip(rewards, right, strict=True) if not ok],
    ).statistic
    assert auc(rewards, right) == pytest.approx(statistic / 9)
    found = calibration(answers_of(zip(range(6), rewards, right, strict=True)))
    assert found.pooled.value == pytest.approx(statistic / 9)
    assert found.pairs == 0 and math.isnan(found.within.value)
    assert math.isnan(auc([1.0], [True]))


def test_a_reward_that_only_knows_the_question_has_one_half_within():
    """Four answers to each of 80 questions; the reward is the question's easiness."""
    draws = Key.root(2).uniforms(0, 80 * 5).reshape(80, 5)
    answers = [
        (str(i), float(row[0]), bool(row[j] < row[0])) for i, row in enumerate(draws)
        for j in range(1, 5)
    ]  # fmt: skip
    found = calibration(answers_of(answers))
    assert found.within.value == 0.5 and found.pooled.low > 0.7


def test_reliability_counts_every_answer_once():
    rewards = np.round(Key.root(3).uniforms(0, 100), 2)
    answers = answers_of((i % 25, r, r > 0.5) for i, r in enumerate(rewards))
    bins = reliability(answers, bins=4)
    assert sum(found.rows for found in bins) == 100
    assert bins[0].share.value == 0 and bins[-1].share.value == 1
    assert reliability(answers_of([])) == []
    assert reliability(answers_of([("a", 1.0, True)]))[0].rows == 1
