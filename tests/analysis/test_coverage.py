"""How often intervals hold the truth, and tests err, on simulated data with known truth.

S data sets each; if an interval covered at exactly its nominal rate c, the observed rate would
leave c ± 4 sqrt(c (1 - c) / S) with probability below 1e-4. The draws are keyed, so a test that
passes once always passes. No report shows an interval that is not simulated here.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from pandas import DataFrame
from run_folders import as_run, record
from scipy import stats

from nabla_eval.analysis import intervals
from nabla_eval.analysis.accuracy import accuracy, difference, majority, pass_at
from nabla_eval.analysis.calibration import calibration, reliability
from nabla_eval.analysis.candidates import (
    gain,
    in_bins,
    judged,
    rejection_difference,
)
from nabla_eval.analysis.cost import acceleration, correct_per_cost, cost_ratio, costs, truncated
from nabla_eval.analysis.intervals import Estimate, mean, ratio, skewed_mean
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.scaling import at_equal_cost
from nabla_eval.randomness import Key

KEY = Key.root(21)
HOME = Path(__file__).parents[2] / "reports" / "coverage"


def draws(key: Key, *shape: int) -> np.ndarray:
    return key.uniforms(0, math.prod(shape)).reshape(shape)


def slack(rate: float, trials: int) -> float:
    return 4 * math.sqrt(rate * (1 - rate) / trials)


def frame(*columns: np.ndarray, names: str) -> DataFrame:
    """Arrays `[problems, rows]` as columns beside the problem that they are of."""
    problems = np.indices(columns[0].shape)[0]
    parts = {n: c.ravel() for n, c in zip(names.split(), columns, strict=True)}
    return DataFrame({"problem": problems.ravel(), **parts})


# --- one data set of each kind: what is estimated, by the true value ------------------------------


def means(u: np.ndarray) -> dict[str, tuple[float, Estimate]]:
    """Four correlated runs of 200 problems of different difficulty, whose square has mean 1/3."""
    runs = (u[:, 1:5] < u[:, :1] ** 2).astype(float)
    pooled = mean(runs.ravel())  # the control: what ignoring clusters costs
    return {
        "mean": (1 / 3, mean(runs.mean(1))),
        "mean at .8": (1 / 3, mean(runs.mean(1), 0.8)),
        "control: runs pooled": (1 / 3, pooled),
    }


def rates(u: np.ndarray) -> dict[str, tuple[float, Estimate]]:
    """0 to 6 candidates; the problem decides how many and how bad."""
    nature, most = u[:, :1], 6
    tried = np.arange(most) < np.ceil(nature * (most + 1)) - 1  # 0..6, equally likely
    rejected = (u[:, 1:7] < 0.3 + 0.5 * nature) & tried
    # E[count * (0.3 + 0.5 nature)] / E[count], with E[nature | count = j] = (j + 1/2)/7
    counts = np.arange(most + 1)
    truth = float((counts * (0.3 + 0.5 * (counts + 0.5) / 7)).sum() / counts.sum())
    return {
        "rate": (truth, ratio(rejected.sum(1), tried.sum(1))),
        "rate at .8": (truth, ratio(rejected.sum(1), tried.sum(1), 0.8)),
    }


def ratios(u: np.ndarray) -> dict[str, tuple[float, Estimate]]:
    """Costs that share a length."""
    length = 10 + 30 * u[:, :1]
    sides = [0.6 * length * (0.5 + u[:, 1:2]), length * (0.5 + u[:, 2:3])]
    ours, theirs = (SimpleNamespace(answers=frame(s, names="model_calls")) for s in sides)
    return {"cost ratio": (0.6, cost_ratio(ours, theirs))}


def paired(u: np.ndarray) -> dict[str, tuple[float, Estimate]]:
    """Right or wrong on the same 150 problems."""
    easy, names = u[:, 0], range(len(u))
    sides = [dict(zip(names, (u[:, i] < e)[:, None].astype(float), strict=True))
             for i, e in ((1, easy), (2, easy**2))]  # fmt: skip
    return {"accuracy": (1 / 2 - 1 / 3, difference(*sides).estimate)}


def differences(u: np.ndarray) -> dict[str, tuple[float, Estimate]]:
    """Rejected on the same problems, with counts that are not tied to hardness."""
    easy = u[:, 0]
    tried = np.arange(4) < 1 + (u[:, 3:4] * 4).astype(int)
    first = [(i, ["rejected" if x else "accepted" for x in row[hit]])
             for i, (row, hit) in enumerate(zip(u[:, 4:8] < 0.3 + 0.5 * easy[:, None], tried,
                                                strict=True))]  # fmt: skip
    second = [(i, ["rejected" if x else "accepted" for x in row])
              for i, row in enumerate(u[:, 8:10] < 0.5 + 0.5 * easy[:, None])]  # fmt: skip
    return {"rejection": (0.55 - 0.75, rejection_difference(judged(first), judged(second)))}


def aucs(u: np.ndarray) -> dict[str, tuple[float, Estimate]]:
    """Four answers a question; right ones' rewards are normal with mean 1, wrong ones' with 0.

    Both are shifted by the question. A pooled pair is of one question with probability 1/60 only:
    its effect is below noise.
    """
    spread = 0.5
    right = u[:, 1:5] < 0.5
    rewards = stats.norm.ppf(u[:, 5:9]) + right + spread * stats.norm.ppf(u[:, :1])
    found = calibration(frame(rewards, right, names="reward right"))
    return {
        "pooled": (stats.norm.cdf(1 / math.sqrt(2 + 2 * spread**2)), found.pooled),
        "within": (stats.norm.cdf(1 / math.sqrt(2)), found.within),
    }


def of_a_run(u: np.ndarray) -> dict[str, tuple[float, Estimate]]:
    """Every other interval that a report shows: two answers to each problem, up to 3 candidates."""
    nature = u[:, :1]
    tried = np.arange(3) < 1 + (3 * u[:, 1:3]).astype(int)[..., None]
    new = 0.2 + (2 * u[:, 3:9].reshape(-1, 2, 3) - 1) + 0.5 * (nature[..., None] - 0.5)
    candidates = DataFrame({
        "problem": np.nonzero(tried)[0], "new_reward": new[tried], "old_reward": 0.0,
        "entropy": u[:, 9:15].reshape(-1, 2, 3)[tried],
        "verdict": np.where(new[tried] > 0, "accepted", "rejected"),
    })  # fmt: skip
    passed = 5 + (10 * u[:, 15:17]).astype(int)
    visited = passed * u[:, 17:19]
    refinements = np.repeat(1 + 2 * nature, 2, axis=1)
    answers = frame(
        5 + 5 * (nature + u[:, 21:23]), np.repeat(3 * nature, 2, axis=1), passed, visited,
        visited * u[:, 19:21], refinements, 20 * refinements * 0.8 * u[:, 23:25],
        np.where(u[:, 25:27] < nature / 2, "length", "eos"),
        names="model_calls reward positions visited certified refinements gradient_passes stop",
    ).assign(first_reward=0.0)  # fmt: skip
    rest = [*cost_columns() - set(answers.columns)]
    answers[rest] = 0.0
    graded = (u[:, 27:30] < nature).astype(float)
    scores = dict(enumerate(graded.tolist()))
    right = {problem: group[:2] for problem, group in scores.items()}
    run = cast(Run, SimpleNamespace(
        answers=answers, candidates=candidates, config={"steps": 20}, scores=right))  # fmt: skip
    voted = {problem: [majority([(x, x) for x in group])] for problem, group in scores.items()}
    ranked = frame(np.indices(graded.shape)[1], graded > 0, names="reward right")
    gains, saved = gain(run), acceleration(run)
    accepted = candidates["verdict"] == "accepted"
    return {
        "gain of a candidate": (0.2, gains.mean),
        "gain of an answer": (1.5, gains.final),
        "candidates that gain": (0.6, gains.positive),
        "accepted in a bin": (0.6, in_bins(candidates, "entropy", accepted, [0, 0.5, 1])[0].share),
        "truncated": (0.25, truncated(run)),
        "mean cost": (10.0, costs(run)["model_calls"]),
        "correct per cost": (0.05, correct_per_cost(run)),
        "certified": (0.5, saved.certified),
        "cached": (0.6, saved.cached),
        "skipped": (0.5, saved.skipped),
        "accuracy": (0.5, accuracy(scores)),
        "pass@2": (2 / 3, pass_at(scores, 2)),
        "maj@3": (0.5, accuracy(voted)),
        "right in a bin of rewards": (0.5, reliability(ranked, bins=3)[0].share),
    }


@cache
def cost_columns() -> set[str]:
    return {*as_run([record(0)]).answers.columns}


@pytest.mark.parametrize(
    ("make", "trials", "problems", "width"),
    [(means, 1500, 200, 5), (rates, 1000, 120, 7), (ratios, 400, 80, 3), (paired, 2000, 150, 3),
     (differences, 400, 100, 10), (aucs, 250, 60, 9), (of_a_run, 300, 80, 30)],
)  # fmt: skip
def test_each_interval_covers_at_its_nominal_rate(make, trials, problems, width, monkeypatch):
    monkeypatch.setattr(intervals, "_RESAMPLES", 600)
    hits: Counter[str] = Counter()
    for u in draws(KEY / make.__name__, trials, problems, width):
        for name, (truth, found) in make(u).items():
            hits[name] += found.low <= truth <= found.high
    for name, count in hits.items():
        level = 0.8 if name.endswith(" at .8") else 0.95
        covered = abs(count / trials - level) <= slack(level, trials)
        assert covered != name.startswith("control"), (name, count / trials)


# --- tests keep their size -------------------------------------------


@pytest.mark.parametrize("repeats", [1, 4])
def test_the_paired_test_keeps_its_size(repeats):
    """Two equal methods on 120 problems: P(rate of p <= 0.05 above 0.05 + 4 se) < 1e-4."""
    trials, problems = 500, 120
    drawn = draws(KEY / "size" / repeats, trials, problems, 1 + 2 * repeats)
    right = (drawn[..., 1:] < drawn[..., :1]).astype(float)
    p_values = [
        difference(dict(enumerate(data[:, :repeats])), dict(enumerate(data[:, repeats:]))).p
        for data in right
    ]
    rejected = np.mean(np.array(p_values) <= 0.05)
    assert 0.01 <= rejected <= 0.05 + slack(0.05, trials)  # exact tests are careful, not idle


# --- the difference at equal cost, with costs that are estimates too ------------------------------

EQUAL = Key.root(33)
PAIRS, SHARED = 400, 150
# Accuracy of a problem of easiness e, and mean cost, of the rival's runs and of ours.
CHEAP, DEAR, OURS = (0.2, 20.0), (0.8, 40.0), (0.55, 30.0)
RIVAL = (CHEAP[0] + DEAR[0]) / 2  # at 30 calls: halfway


def fake_run(scores: np.ndarray, costs: np.ndarray) -> Run:
    """Scores and costs; all that `at_equal_cost` reads of a run."""
    answers = frame(costs, names="model_calls")
    return cast(Run, SimpleNamespace(scores=dict(enumerate(scores.tolist())), answers=answers))


def drawn(key: Key, repeats: int, ours: float = OURS[0]) -> list[Run]:
    """Three runs of the same problems: hard ones fail more often and cost more, in all of them."""
    u = draws(key, SHARED, 1 + 6 * repeats)
    hard, rest = u[:, :1], u[:, 1:].reshape(SHARED, 6, repeats)
    runs = []
    for k, (right, price) in enumerate((CHEAP, DEAR, (ours, OURS[1]))):
        chance = right + 0.3 * (0.5 - hard)
        spent = price * (0.3 + 0.4 * hard - 0.5 * np.log(rest[:, 2 * k + 1]))  # on average `price`
        runs.append(fake_run((rest[:, 2 * k] < chance).astype(float), spent))
    return runs


@pytest.mark.parametrize("repeats", [1, 4])
def test_it_covers_the_difference_at_the_true_mean_cost(repeats: int) -> None:
    """The control, which takes the measured costs as known, covers less often."""
    truth, hits, naive = OURS[0] - RIVAL, 0, 0
    for trial in range(PAIRS):
        cheap, dear, ours = drawn(EQUAL / repeats / trial, repeats)
        found = at_equal_cost(ours, [cheap, dear])
        assert found is not None
        low, high = found.difference.estimate.interval
        hits += low <= truth <= high
        w = found.weight
        known = mean([
            np.mean(own) - (1 - w) * np.mean(cheap.scores[p]) - w * np.mean(dear.scores[p])
            for p, own in ours.scores.items()
        ])  # fmt: skip
        assert known.value == pytest.approx(found.difference.estimate.value, abs=1e-12)
        naive += known.low <= truth <= known.high
    assert abs(hits / PAIRS - 0.95) <= slack(0.95, PAIRS), hits
    assert naive < hits - PAIRS * slack(0.95, PAIRS), naive


def test_its_test_keeps_its_size_and_has_power() -> None:
    def rejected(right: float) -> float:
        p_values: list[Any] = []
        for trial in range(PAIRS // 2):
            cheap, dear, ours = drawn(EQUAL / "size" / trial, 1, right)
            found = at_equal_cost(ours, [cheap, dear])
            p_values.append(found.difference.p if found else 1.0)
        return float(np.mean(np.array(p_values) <= 0.05))

    assert 0.01 <= rejected(RIVAL) <= 0.05 + slack(0.05, PAIRS // 2)
    assert rejected(RIVAL + 0.25) > 0.8


@pytest.mark.parametrize("gain", [0.0, 0.125])
def test_what_costs_explain_is_taken_out_of_the_spread_at_equal_cost(gain: float) -> None:
    """Accuracy follows cost: less the slope times the cost, problems do not differ.

    Taken with the other sign, the correction would double what the costs explain.
    """
    costs = draws(Key.root(52) / "costs", 3, 20) * [[10], [40], [25]] + [[5], [20], [12]]
    cheap, dear, ours = (
        fake_run(0.1 + 0.01 * own[:, None] + more, own[:, None])
        for own, more in zip(costs, (0.0, 0.0, gain), strict=True)
    )
    found = cast("Any", at_equal_cost(ours, [cheap, dear]))
    assert found.difference.estimate.value == pytest.approx(gain, abs=1e-9)
    assert found.difference.estimate.se == pytest.approx(0, abs=1e-9)


# --- the simulation of `reports/coverage`, whose page has it with more data sets -----------------


@pytest.fixture(scope="module")
def simulation() -> Iterator[Any]:
    """The script of `reports/coverage`."""
    sys.path.insert(0, str(HOME))
    try:
        yield importlib.import_module("coverage_page")
    finally:
        sys.path.remove(str(HOME))
        sys.modules.pop("coverage_page", None)


def test_accuracy_covers_where_the_t_interval_did_not(simulation):
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
    assert not [cell for cell in cells if min(cell[1:]) < 0.91 - slack(0.91, 250)]


def test_at_equal_cost_it_covers_rivals_that_fall_tie_or_saturate(simulation):
    """In truth we are as right as the best mixture: 200 data sets of 30 problems each."""
    found = list(simulation.of_equal_cost(200, (30,), simulation.LADDERS[:3]))
    assert len(found) == 3
    for _, covered, erred in found:
        assert covered >= 0.93 - slack(0.93, 200) and erred <= 0.06 + slack(0.06, 200)


def test_mean_costs_that_are_skewed_cover_better_than_the_t_interval():
    """Lognormal (sigma 1), n = 10: t covers .84, ours .91 (reports/coverage); 400 data sets."""
    truth, hits, control = math.exp(0.5), 0, 0
    for spent in np.exp(stats.norm.ppf(draws(Key.root(61) / "cost", 400, 10))):
        found, plain = skewed_mean(spent), mean(spent)
        assert found.low <= plain.low and plain.high <= found.high and found.se == plain.se
        hits += found.low <= truth <= found.high
        control += plain.low <= truth <= plain.high
    assert hits / 400 >= 0.91 - slack(0.91, 400) and control < hits - 15


def test_the_page_that_ships_is_of_the_script_that_makes_it(simulation):
    """One cell is simulated again, with as many data sets as the page says."""
    page = (HOME.parent / "coverage.md").read_text(encoding="utf-8")
    heads = [line for line in simulation.TEXT.splitlines() if line.startswith("#")]
    assert [line for line in page.splitlines() if line.startswith("#")] == heads
    setting = 30, 4, 0.6, 0.02
    key = simulation.KEY / "accuracy" / 30 / 4 / "0.6" / "0.02"
    cell = simulation._accuracy_cell(
        setting, simulation.answers(key, 2000, *setting[:2], 0.02, 0.6), 0.02
    )
    words = f"{simulation.rate(cell.t)} / {simulation.rate(cell.ours)}"
    assert f"| 30 | 4 | 0.6 | {words} |" in page
