"""avg@k, pass@k and maj@k of graded samples."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, product

import pytest

from nabla_eval.errors import ConfigError
from nabla_eval.grading import Grade
from nabla_eval.harness.math_metrics import (
    check_metrics,
    majority,
    metric_list,
    pass_at_k,
    sample_metrics,
)
from nabla_eval.harness.response import NablaResponse

RIGHT, WRONG, NONE = Grade(True, "1"), Grade(False, "2"), Grade(False, None, reason="no_answer")
OTHER, LATE = Grade(False, "3"), Grade(False, "4", timed_out=True, reason="grader_timeout")


def named(names: list[dict[str, object]]) -> list[str]:
    return [str(entry["metric"]) for entry in names]


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples: int) -> None:
    for verdicts in product([False, True], repeat=samples):
        for k in range(1, samples + 1):
            subsets = list(combinations(verdicts, k))
            share = Fraction(sum(any(subset) for subset in subsets), len(subsets))
            assert pass_at_k(samples, sum(verdicts), k) == pytest.approx(float(share), abs=1e-15)


def test_pass_at_k_is_unbiased() -> None:
    """Its mean over all outcomes of n independent samples is 1 - (1 - p)^k, whatever n."""
    p = Fraction(3, 10)
    for n, k in ((4, 2), (6, 4)):
        mean = sum(
            (p ** sum(verdicts)) * ((1 - p) ** (n - sum(verdicts)))
            * Fraction(pass_at_k(n, sum(verdicts), k)).limit_denominator(1000)
            for verdicts in product([0, 1], repeat=n)
        )  # fmt: skip
        assert mean == 1 - (1 - p) ** k


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pass@8 of the task needs at least 8 samples .* are 4"):
        pass_at_k(4, 1, 8)
    with pytest.raises(ConfigError, match=r"pass@5 of t needs at least 5 .* Set repeats: 5"):
        check_metrics(["exact_match", "pass@5"], 4, "t")
    with pytest.raises(ConfigError, match="maj@2 of t needs exactly 2"):
        check_metrics(["maj@2"], 4, "t")
    with pytest.raises(ConfigError, match="t has no metric 'pass@0'"):
        check_metrics(["pass@0"], 4, "t")
    check_metrics(["pass@1", "pass@3", *named(metric_list(4))], 4, "t")


@pytest.mark.parametrize(
    ("grades", "expected"),
    [
        ([RIGHT], 1),
        ([WRONG], 0),
        ([NONE, NONE], 0),
        ([NONE, NONE, RIGHT], 1),  # who has no answer does not vote
        ([WRONG, RIGHT, RIGHT, OTHER], 1),
        ([WRONG, RIGHT], 1 / 2),  # ties are broken by lot: neither order nor luck counts
        ([RIGHT, WRONG], 1 / 2),
        ([WRONG, OTHER, RIGHT], 1 / 3),
        ([WRONG, WRONG, RIGHT], 0),
    ],
)
def test_majority(grades: list[Grade], expected: float) -> None:
    assert majority(grades) == pytest.approx(expected)


def test_equivalent_answers_are_one_vote() -> None:
    halves = [Grade(True, r"\frac12"), Grade(True, "0.5"), Grade(True, "1/2")]
    assert majority([*halves[:2], WRONG, OTHER]) == 1
    assert majority([*halves, WRONG, WRONG]) == 1


def test_all_metrics_of_four_samples() -> None:
    stats = {"model_calls": 10, "generated_tokens": 8, "candidates": 0, "rejected": 0}
    costly = {"model_calls": 30, "generated_tokens": 16, "candidates": 4, "rejected": 1}
    stats["malformed"], costly["malformed"] = None, 3
    responses = [
        NablaResponse("", {**(costly if cut else stats), "truncated": cut})
        for cut in (False, False, False, True)
    ]
    metrics = sample_metrics([RIGHT, RIGHT, LATE, NONE], responses, named(metric_list(4)))
    assert metrics == {
        "exact_match": 0.5,
        "pass@4": 1,
        "maj@4": 1,
        "truncated": 0.25,
        "no_answer": 0.25,
        "grader_timeout": 0.25,
        "model_calls": 15,
        "generated_tokens": 10,
        "rejection_rate": 0.25,
        "malformed": 3,
    }
    assert metrics.keys() == set(named(metric_list(4))) - {"failed"}


def test_responses_of_other_models_have_no_costs() -> None:
    metrics = sample_metrics([RIGHT, NONE], ["1", ""], named(metric_list(2)))
    assert metrics == {
        "exact_match": 0.5, "pass@2": 1, "maj@2": 1, "no_answer": 0.5, "grader_timeout": 0,
    }  # fmt: skip
