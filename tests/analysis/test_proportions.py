"""Intervals of proportions and of their differences: closed forms, ends, and coverage.

The coverage simulation is the one of `reports/coverage`, whose page has it with more data sets.
S data sets a cell; a coverage of at least c is seen below c - 4 sqrt(c (1 - c) / S) with
probability below 1e-4. The draws are keyed, so a test that passes once always passes.
"""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from scipy import stats

from nabla_eval.analysis import mean_interval
from nabla_eval.analysis.accuracy import accuracy, difference, pass_at
from nabla_eval.analysis.calibration import calibration
from nabla_eval.analysis.cost import correct_per_cost
from nabla_eval.analysis.intervals import (
    clustered_mean,
    mean,
    proportion,
    rate_difference,
    share,
    skewed_means,
    won_minus_lost,
)
from nabla_eval.errors import DataError
from nabla_eval.randomness import Key

KEY = Key.root(61)
HOME = Path(__file__).parents[2] / "reports" / "coverage"


@pytest.fixture(scope="module")
def simulation() -> Iterator[Any]:
    """The script of `reports/coverage`."""
    sys.path.insert(0, str(HOME))
    try:
        yield importlib.import_module("coverage_page")
    finally:
        sys.path.remove(str(HOME))
        sys.modules.pop("coverage_page", None)


def slack(rate: float, trials: int) -> float:
    return 4 * math.sqrt(rate * (1 - rate) / trials)


# --- closed forms -------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "n"), [(0, 30), (1, 10), (15, 30), (29, 30), (30, 30)])
def test_the_ends_are_where_the_score_test_turns(right, n):
    """At an end b of Wilson's interval (p - b)^2 = t^2 b (1 - b) / n."""
    found = mean_interval([[1.0]] * right + [[0.0]] * (n - right))
    assert found == (found.mean, found.low, found.high) and found.mean == right / n
    t = stats.t.ppf(0.975, n - 1)
    for end in (found.low, found.high):
        assert (found.mean - end) ** 2 == pytest.approx(t**2 * end * (1 - end) / n, abs=1e-12)
    assert 0 <= found.low <= found.mean <= found.high <= 1 and found.high - found.low > 0.05


def test_the_effective_sample_size_lies_between_problems_and_answers():
    """Copied runs are worth one, independent ones k; between them it is p (1 - p) / se^2."""
    single = [[1.0], [0.0], [1.0], [1.0], [0.0], [1.0]] * 5
    assert mean_interval([runs * 4 for runs in single]) == mean_interval(single)
    mixed = [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]] * 15  # every problem one half, and so 0
    assert mean_interval(mixed) == (0.5, *mean_interval([[1.0], [0.0]] * 15)[1:])
    graded = [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]] * 6
    means = [sum(runs) / 4 for runs in graded]
    found, t = mean_interval(graded), stats.t.ppf(0.975, 29)
    size = found.mean * (1 - found.mean) / stats.sem(means) ** 2
    assert 30 < size < 120
    assert (found.mean - found.low) ** 2 == pytest.approx(t**2 * found.low * (1 - found.low) / size)
    near = [[1, 1, 0, 0]] * 29 + [[1, 0, 0, 0]]  # hardly any spread: no more than all answers
    found = mean_interval(near)
    assert (found.mean - found.high) ** 2 == pytest.approx(
        t**2 * found.high * (1 - found.high) / 120
    )


def test_unequal_repeats_weigh_problems_alike():
    """The mean of problem means; k is harmonic, what independent runs are worth to it."""
    values = [[1.0], [0.0, 0.0, 0.0, 1.0], [1.0, 0.0]] * 4
    found = mean_interval(values)
    assert found.mean == pytest.approx((1 + 0.25 + 0.5) / 3)
    assert accuracy({str(i): runs for i, runs in enumerate(values)}).interval == found[1:]
    flat = [[1.0, 0.0], [0.0, 1.0, 0.0, 1.0]] * 20 + [[1.0, 0.0, 0.0]]
    harmonic = 41**2 / (20 / 2 + 20 / 4 + 1 / 3)
    found, t = mean_interval(flat), stats.t.ppf(0.975, 40)
    assert (found.mean - found.high) ** 2 == pytest.approx(
        t**2 * found.high * (1 - found.high) / harmonic
    )


def test_one_problem_says_nothing_about_others():
    assert mean_interval([[1, 1, 1, 0]]) == (0.75, 0.0, 1.0)
    assert mean_interval([[1]]).low == 0.0
    found = difference({"a": [1.0]}, {"a": [0.0]}).estimate
    assert found.interval == (-1.0, 1.0) and share({"a": 3}, {"a": 3}).interval == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "There are no values"),
        ([[1.0], []], r"values\[1\] is \[\]"),
        ([[1.0], [0.5, 1.5]], r"values\[1\] is \[0.5, 1.5\]"),
        ([[math.nan]], r"values\[0\] is \[nan\]"),
        ([1.0, 0.0], r"values\[0\] is 1.0"),
        ([["right"]], r"values\[0\] is \['right'\]"),
    ],
)
def test_what_are_no_scores_is_refused_in_words(values, said):
    with pytest.raises(DataError, match=said):
        mean_interval(values)


def test_the_public_name_needs_no_torch_and_the_package_alone_no_scipy():
    code = (
        "import sys, nabla_eval.analysis as a; assert 'scipy' not in sys.modules; "
        "assert a.mean_interval([[1, 0], [1]])[0] == .75; assert 'torch' not in sys.modules; "
        "a.nothing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "has no attribute 'nothing'" in done.stderr.splitlines()[-1]


# --- the ends, wherever a proportion is shown ---------------------------------------------------


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=1, max_size=4), min_size=1,
             max_size=9)
)  # fmt: skip
def test_it_never_has_zero_width_and_never_leaves_the_unit_interval(values):
    found = mean_interval(values)
    assert 0 <= found.low <= found.mean <= found.high <= 1 and found.high - found.low > 0.01
    scores = {str(i): group for i, group in enumerate(values)}
    for other in (scores, {problem: [1.0] for problem in scores}):
        gap = difference(scores, other).estimate
        assert -1 <= gap.low <= gap.value <= gap.high <= 1 and gap.high - gap.low > 0.01


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 1), (0, 1), (1, 0)])
def test_differences_between_ends_have_width(a, b):
    sides = [{str(i): [float(x)] * 4 for i in range(30)} for x in (a, b)]
    found = difference(*sides).estimate
    assert found.value == a - b and found.low < found.high and found.high - found.low > 0.1
    table = np.array([[a * (1 + i % 3), 1 + i % 3, b * (1 + i % 2), 1 + i % 2] for i in range(30)])
    rates = rate_difference(table)
    assert rates.value == a - b and rates.high - rates.low > 0.1
    assert max(abs(found.low), abs(found.high), abs(rates.low), abs(rates.high)) <= 1


def test_a_rate_of_nothing_has_no_difference():
    assert math.isnan(rate_difference(np.array([[1, 2, 0, 0], [0, 1, 0, 0]])).value)
    assert math.isnan(rate_difference(np.empty((0, 4))).value)
    assert math.isnan(won_minus_lost([], 0, 0).value) and math.isnan(proportion([]).value)


def test_a_rate_at_an_end_is_as_sure_as_its_problems_not_as_its_candidates():
    """Kish: one problem with 91 of 100 candidates is hardly more than one."""
    many = {str(i): 91 if i == 0 else 1 for i in range(10)}
    lopsided, even = share(many, many), share(dict.fromkeys(many, 10), dict.fromkeys(many, 10))
    assert lopsided.low < 0.4 < 0.6 < even.low


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_other_figures_at_an_end_have_width_too(right):
    scores = {f"t/{i}": [right] * 4 for i in range(20)}
    assert pass_at(scores, 4, 2).high - pass_at(scores, 4, 2).low > 0.05
    assert accuracy(scores).se > 0.01
    for calls in (10.0 + np.arange(20), np.full(20, 10.0)):
        answers = DataFrame({"problem": list(scores), "model_calls": calls})
        found = correct_per_cost(SimpleNamespace(scores=scores, answers=answers))
        assert found.low <= found.value <= found.high and found.high - found.low > 0.005


def test_a_perfect_auc_on_few_problems_is_not_certain():
    answers = [(f"p{i}", float(right), bool(right)) for i in range(5) for right in (0, 1)]
    found = calibration(answers)
    assert found.pooled.value == found.within.value == 1.0
    assert found.pooled.low == found.within.low == pytest.approx(mean_interval([[1]] * 5).low)
    one_wrong = [(f"p{i}", 1.0, True) for i in range(9)] + [("p9", 0.0, False)]
    assert calibration(one_wrong).pooled.low < 0.2  # it rests on a single wrong answer


# --- coverage -----------------------------------------------------------------------------------


def test_it_covers_where_the_t_interval_did_not(simulation):
    """n = 10, 30; k = 1, 4; p = .02 ... .98; ICC .2, .6: 72 cells of 400 data sets."""
    cells = list(simulation.of_accuracy(400))
    assert len(cells) == 72
    low = {cell.setting: cell.ours for cell in cells if cell.ours < 0.90 - slack(0.90, 400)}
    assert not low
    assert 0.95 <= np.mean([cell.ours for cell in cells]) <= 0.98
    t = {cell.setting: cell.t for cell in cells}
    assert t[30, 4, 0.6, 0.02] < 0.75 and t[10, 4, 0.6, 0.02] < 0.40  # the control


def test_differences_cover(simulation):
    cells = list(simulation.of_differences(250))
    assert not {cell.setting: cell.ours for cell in cells if cell.ours < 0.93 - slack(0.93, 250)}
    assert min(cell.t for cell in cells) < 0.6  # the control


def test_rates_and_their_differences_cover(simulation):
    cells = list(simulation.of_rejection(250))
    low = [cell for cell in cells if min(cell[1:]) < 0.91 - slack(0.91, 250)]
    assert not low


def test_at_equal_cost_it_covers_rivals_that_fall_tie_or_saturate(simulation):
    """In truth we are as right as the best mixture: 200 data sets of 30 problems each."""
    found = list(simulation.of_equal_cost(200, (30,), simulation.LADDERS[:3]))
    assert len(found) == 3
    for _, covered, erred in found:
        assert covered >= 0.93 - slack(0.93, 200) and erred <= 0.06 + slack(0.06, 200)


def test_mean_costs_that_are_skewed_cover_better_than_the_t_interval():
    """Lognormal (sigma 1), n = 10: t covers .84, ours .91 (reports/coverage); 400 data sets."""
    draws = stats.norm.ppf((KEY / "cost").uniforms(0, 4000)).reshape(400, 10)
    truth, hits, control = math.exp(0.5), 0, 0
    for costs in np.exp(draws):
        found, plain = skewed_means({"c": list(costs)})["c"], mean(list(costs))
        assert found.low <= plain.low and plain.high <= found.high and found.se == plain.se
        hits += found.low <= truth <= found.high
        control += plain.low <= truth <= plain.high
    assert hits / 400 >= 0.91 - slack(0.91, 400) and control < hits - 15


def test_costs_that_do_not_vary_are_known_and_scales_do_not_matter():
    same = skewed_means({"a": [12.0] * 8, "b": [1.0, 2.0, 9.0, 4.0, 5.0, 6.0, 7.0, 30.0]})
    assert same["a"].interval == (12.0, 12.0)
    large = skewed_means({"b": [1e12 * x for x in (1.0, 2.0, 9.0, 4.0, 5.0, 6.0, 7.0, 30.0)]})["b"]
    assert large.interval == pytest.approx(tuple(1e12 * x for x in same["b"].interval))
    assert math.isnan(skewed_means({"a": [3.0]})["a"].low) and skewed_means({}) == {}
    assert skewed_means({"a": [1.0, 3.0]})["a"] == clustered_mean({"x": [1.0], "y": [3.0]})


def test_the_page_that_ships_is_of_the_script_that_makes_it(simulation):
    """One cell is simulated again, with as many data sets as the page says."""
    page = (HOME.parent / "coverage.md").read_text(encoding="utf-8")
    heads = [line for line in simulation.TEXT.splitlines() if line.startswith("#")]
    assert [line for line in page.splitlines() if line.startswith("#")] == heads
    setting = 30, 4, 0.6, 0.02
    key = KEY.root(16) / "accuracy" / 30 / 4 / "0.6" / "0.02"
    cell = simulation._accuracy_cell(
        setting, simulation.answers(key, 2000, *setting[:2], 0.02, 0.6), 0.02
    )
    words = f"{simulation.rate(cell.t)} / {simulation.rate(cell.ours)}"
    assert f"| 30 | 4 | 0.6 | {words} |" in page
