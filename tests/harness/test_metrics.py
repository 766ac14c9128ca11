"""Responses keep their statistics through lm-eval; avg@k, pass@k and maj@k of graded samples."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from fractions import Fraction
from itertools import combinations, permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.filters import build_filter_ensemble

from nabla_eval.errors import ConfigError
from nabla_eval.grading import Grade, cluster, extract, grade
from nabla_eval.harness.metrics import (
    NablaResponse,
    check_metrics,
    cost_metrics,
    listed,
    majority,
    metric_list,
    pass_at_k,
    sample_metrics,
)

RIGHT, WRONG, NONE = Grade(True, "1"), Grade(False, "2"), Grade(False, None, reason="no_answer")
HALVES = [Grade(True, answer) for answer in (r"\frac12", "0.5", "1/2")]
OTHER, LATE = Grade(False, "3"), Grade(False, "4", timed_out=True, reason="grader_timeout")


STATS = {"model_calls": 12, "generated_tokens": 7, "candidates": 3, "rejected": 2}


def response(text=" The answer is 42. "):
    return NablaResponse(text, STATS)


def filtered(*functions):
    instance = Instance("generate_until", {}, ("p", {}), 0, resps=[response("b "), response("a ")])
    build_filter_ensemble("f", [list(entry) for entry in functions]).apply([instance])
    return instance.filtered_resps["f"]


@pytest.mark.parametrize(
    "kept",
    [
        lambda r: pickle.loads(pickle.dumps(r)), copy.copy, copy.deepcopy, lambda r: r.strip(),
        lambda r: r.lstrip().rstrip(), lambda r: r.lower(), lambda r: r.upper(),
        lambda r: r.replace("42", "43"), lambda r: r.removeprefix(" "), lambda r: r[2:],
        lambda r: r.removesuffix(" "), lambda r: r.translate({}),
        lambda r: filtered(("take_first", None)), lambda r: filtered(("majority_vote", None))[0],
        lambda r: filtered(("remove_whitespace", None), ("take_first_k", {"k": 2}))[1],
    ],
)  # fmt: skip
def test_statistics_survive_what_lm_eval_does_with_a_string(kept):
    result = kept(response())
    assert type(result) is NablaResponse and result.stats == STATS


def test_a_response_is_its_text():
    text = str(response())
    assert json.dumps(response("a")) == '"a"' and type(text) is str
    assert response().strip() == text.strip()
    assert response().replace("4", "5", 1) == text.replace("4", "5", 1)
    assert response()[4:7] == text[4:7] and response()[-1] == text[-1]
    assert response("x").stats is not STATS  # a copy of its own


def test_a_regex_filter_builds_new_strings():
    (first, _) = filtered(("regex", {"regex_pattern": "(a|b)"}))
    assert first == "b" and not isinstance(first, NablaResponse)
    assert cost_metrics([first]) == {}  # and then there are no cost metrics, but no crash


def test_cost_metrics_are_means_over_the_responses_of_a_document():
    other = NablaResponse("", {**STATS, "model_calls": 20, "candidates": 5, "rejected": 4})
    assert cost_metrics([response(), other]) == {
        "model_calls": 16.0, "generated_tokens": 7.0, "rejection_rate": 6 / 8,
    }  # fmt: skip
    none = NablaResponse("", {**STATS, "candidates": 0, "rejected": 0})
    assert "rejection_rate" not in cost_metrics([none])
    assert (listed(["a"]), listed([["a", "b"]])) == (["a"], ["a", "b"])


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
    with pytest.raises(ConfigError, match=r"pass@4 of the task needs at least 4 samples .* are 2"):
        pass_at_k(2, 1, 4)
    for names, said in (
        (["exact_match", "pass@5"], r"pass@5 of t needs at least 5 .* Set repeats: 5"),
        (["maj@2"], "maj@2 of t needs exactly 2"),
        (["pass@0"], "t has no metric 'pass@0'"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_metrics(names, 4, "t")
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
        ([*HALVES[:2], WRONG, OTHER], 1),  # equivalent answers are one vote
        ([*HALVES, WRONG, WRONG], 1),
    ],
)
def test_majority(grades, expected):
    assert majority(grades) == pytest.approx(expected)


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
