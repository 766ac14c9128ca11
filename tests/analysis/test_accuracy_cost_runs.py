"""Accuracy, paired differences, cost, and the refusal of runs that would make a wrong table."""

from __future__ import annotations

import pytest
from run_folders import NABLA, as_run
from run_folders import record as full_record
from scipy import stats

from nabla_eval.analysis.accuracy import accuracy, difference
from nabla_eval.analysis.cost import COSTS, correct_per_cost, costs
from nabla_eval.analysis.intervals import wilson
from nabla_eval.analysis.runs import Run
from nabla_eval.errors import DataError
from nabla_eval.randomness import Key


def record(doc: int, repeat: int = 0, **changes):
    return full_record(doc, repeat, task="t", calls=10.0 * (doc + 1), **changes)


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
    assert (found.wins, found.losses, found.ties) == (2, 1, 1)
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


def test_the_paired_interval_covers_at_its_nominal_rate():
    """2000 data sets of 150 problems; P(outside 0.95 ± 4 standard errors) < 1e-4 if nominal."""
    trials, problems = 2000, 150
    draws = Key.root(3).uniforms(0, trials * problems * 3).reshape(trials, problems, 3)
    easy = draws[..., 0]
    right_a = (draws[..., 1] < easy).astype(float)
    right_b = (draws[..., 2] < easy**2).astype(float)
    names = [str(i) for i in range(problems)]
    hits = 0
    for a, b in zip(right_a, right_b, strict=True):
        scores = [{n: [x] for n, x in zip(names, run, strict=True)} for run in (a, b)]
        found = difference(*scores).estimate
        hits += found.low <= 1 / 2 - 1 / 3 <= found.high
    assert abs(hits / trials - 0.95) <= 4 * (0.95 * 0.05 / trials) ** 0.5


def test_costs_are_means_over_problems():
    found = costs(as_run([record(0), record(1), record(2, 0), record(2, 1)]))
    assert found["model_calls"].value == 20 and found["model_calls"].clusters == 3
    assert found["generated_tokens"].value == 20 and found["seconds"].value == 0.5
    assert found.keys() == set(COSTS)


def test_correct_answers_per_call():
    records = [record(i) for i in range(4)]  # 10, 20, 30 and 40 calls
    scores = {f"t/{i}": [float(i != 3)] for i in range(4)}
    found = correct_per_cost(as_run(records, scores))
    assert found.value == pytest.approx(3 / 100) and found.low < 3 / 100 < found.high
    with pytest.raises(DataError, match="cannot be paired"):
        as_run(records, {"t/0": [1.0]})


def test_a_run_knows_its_method_and_options():
    run = as_run([record(0), record(1)])
    assert run.method == "nabla" and run.config == NABLA and (run.task, run.n) == ("t", 8)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no records"),
        ([record(0), record(1, method="greedy")], "mixes 2 values of method: greedy, nabla"),
        ([record(0), record(1, config_hash="d")], "mixes 2 values of config_hash"),
        ([record(0), record(1, models={"policy": "x"})], "mixes 2 values of models"),
        ([record(0), record(1), record(1)], "answers 't/1/0' twice"),
        ([record(0)], "differ in 1 problems"),
    ],
)
def test_runs_that_would_make_a_wrong_table_are_refused(records, message):
    with pytest.raises(DataError, match=message):
        Run.of("r", records, {"t/0": [1.0], "t/1": [0.0]}, 1.0)


def test_analysis_does_not_import_torch():
    import subprocess
    import sys

    modules = "accuracy, candidates, cost, frames, intervals, runs, study"
    code = (
        f"import sys; from nabla_eval.analysis import {modules}; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
