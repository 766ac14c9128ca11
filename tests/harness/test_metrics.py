"""avg@k, pass@k and maj@k of graded samples."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import combinations, permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nabla_eval.errors import ConfigError
from nabla_eval.grading import Grade, cluster, extract, grade
from nabla_eval.harness.metrics import (
    check_metrics,
    majority,
    metric_list,
    pass_at_k,
    sample_metrics,
)
from nabla_eval.harness.response import NablaResponse

RIGHT, WRONG, NONE = Grade(True, "1"), Grade(False, "2"), Grade(False, None, reason="no_answer")
OTHER, LATE = Grade(False, "3"), Grade(False, "4", timed_out=True, reason="grader_timeout")


def named(names):
    return [str(entry["metric"]) for entry in names]


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples):
    for verdicts in product([False, True], repeat=samples):
        for k in range(1, samples + 1):
            subsets = list(combinations(verdicts, k))
            share = Fraction(sum(any(subset) for subset in subsets), len(subsets))
            assert pass_at_k(samples, sum(verdicts), k) == pytest.approx(float(share), abs=1e-15)


def test_pass_at_k_is_unbiased():
    """Its mean over all outcomes of n independent samples is 1 - (1 - p)^k, whatever n."""
    p = Fraction(3, 10)
    for n, k in ((4, 2), (6, 4)):
        mean = sum(
            (p ** sum(verdicts)) * ((1 - p) ** (n - sum(verdicts)))
            * Fraction(pass_at_k(n, sum(verdicts), k)).limit_denominator(1000)
            for verdicts in product([0, 1], repeat=n)
        )  # fmt: skip
        assert mean == 1 - (1 - p) ** k


def test_too_few_samples_are_refused():
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
def test_majority(grades, expected):
    assert majority(grades) == pytest.approx(expected)


def test_equivalent_answers_are_one_vote():
    halves = [Grade(True, r"\frac12"), Grade(True, "0.5"), Grade(True, "1/2")]
    assert majority([*halves[:2], WRONG, OTHER]) == 1
    assert majority([*halves, WRONG, WRONG]) == 1


# Golds and answers among which equality is not transitive: the second equals the first and the
# third, which are not equal. The share of right samples in the winning group is the metric.
@pytest.mark.parametrize(
    ("gold", "answers", "share"),
    [
        (r"10 \text{ feet}", [r"10 \text{ inches}", "10", "10"], 2 / 3),
        (r"\frac13", ["0.3333334", "0.333333", r"\frac13"], 2 / 3),
        (r"10\%", ["10", r"10\%", "0.1"], 1),
        (r"5 \text{ cm}", [r"5 \text{ cm}", "5", r"5 \text{ kg}", "5"], 3 / 4),
        ("6", [r"6 \text{ apples}", "7", "7", "6"], 1 / 2),
        ("x = 7", ["x = 7", "y = 7", "7", "8"], 2 / 3),
        ("7", [None, "7", "8", "8", None, "  "], 0),
    ],
)
def test_maj_at_k_does_not_depend_on_the_order_of_samples(gold, answers, share):
    grades = [grade(gold, answer, extracted=True) for answer in answers]
    assert {majority(order) for order in permutations(grades)} == {share}


def test_groups_are_the_connected_components_of_equality(monkeypatch):
    """For any relation, symmetric or not: against a plain search of the graph."""
    from nabla_eval.grading.worker import Verdict

    module = sys.modules["nabla_eval.grading.equal"]  # the package has a function of that name

    names = ["a1", "b2", "c3", "d4", "e5"]

    @given(
        st.sets(st.tuples(st.sampled_from(names), st.sampled_from(names))),
        st.lists(st.sampled_from([*names, None]), max_size=8),
        st.randoms(use_true_random=False),
    )
    def check(edges, answers, random):
        monkeypatch.setattr(module, "_verdict", lambda a, b, timeout: Verdict((a, b) in edges))
        present = {answer for answer in answers if answer is not None}

        def reached(start):
            known, waiting = {start}, [start]
            while waiting:
                at = waiting.pop()
                near = {b for b in present if (at, b) in edges or (b, at) in edges} - known
                known |= near
                waiting += near
            return frozenset(known)

        order = list(range(len(answers)))
        random.shuffle(order)
        shuffled = [answers[i] for i in order]
        groups, other = cluster(answers), cluster(shuffled)
        for i, answer in enumerate(answers):
            assert (groups[i] == -1) == (answer is None)
            for j, neighbour in enumerate(answers):
                alike = answer is not None and neighbour in reached(answer)
                assert alike == (groups[i] == groups[j] >= 0)
                at, to = order.index(i), order.index(j)
                assert alike == (other[at] == other[to] >= 0)
        numbers = list(dict.fromkeys(group for group in groups if group >= 0))
        assert numbers == list(range(len(numbers)))  # in order of first appearance
        right = {name: random.random() < 0.5 for name in names}
        grades = [Grade(answer is not None and right[answer], answer) for answer in answers]
        assert majority(grades) == majority([grades[i] for i in order])

    check()


def test_the_answer_of_a_vote_does_not_depend_on_the_order():
    """Self-consistency returns the most frequent spelling of the most frequent answer."""
    from nabla_eval.methods.samples import majority as chosen

    texts = [rf"\boxed{{{a}}}" for a in (r"10 \text{ inches}", "10", "10", "4", "4")]
    answers = {extract(order[chosen(order)]) for order in permutations(texts)}
    assert answers == {"10"}


def test_all_metrics_of_four_samples():
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


def test_responses_of_other_models_have_no_costs():
    metrics = sample_metrics([RIGHT, NONE], ["1", ""], named(metric_list(2)))
    assert metrics == {
        "exact_match": 0.5, "pass@2": 1, "maj@2": 1, "no_answer": 0.5, "grader_timeout": 0,
    }  # fmt: skip
