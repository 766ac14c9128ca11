"""NablaResponse: a string that keeps its statistics through what lm-eval does with strings."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from lm_eval.api.instance import Instance
from lm_eval.filters import build_filter_ensemble

from nabla_eval.harness.metrics import cost_metrics, listed
from nabla_eval.harness.response import NablaResponse

STATS = {"model_calls": 12, "generated_tokens": 7, "candidates": 3, "rejected": 2}


def response(text=" The answer is 42. "):
    return NablaResponse(text, STATS)


def test_it_is_its_text():
    assert response("a") == "a" and hash(response("a")) == hash("a")
    assert json.dumps(response("a")) == '"a"'
    assert type(str(response("a"))) is str


@pytest.mark.parametrize(
    "kept",
    [
        lambda r: pickle.loads(pickle.dumps(r)),
        copy.copy,
        copy.deepcopy,
        lambda r: r.strip(),
        lambda r: r.lstrip().rstrip(),
        lambda r: r.lower(),
        lambda r: r.upper(),
        lambda r: r.replace("42", "43"),
        lambda r: r.removeprefix(" "),
        lambda r: r.removesuffix(" "),
        lambda r: r.translate({}),
        lambda r: r[2:],
    ],
)
def test_statistics_survive(kept):
    result = kept(response())
    assert type(result) is NablaResponse and result.stats == STATS


def test_the_text_changes_as_a_strings_does():
    text = str(response())
    assert response().strip() == text.strip()
    assert response().replace("4", "5", 1) == text.replace("4", "5", 1)
    assert response()[4:7] == text[4:7] and response()[-1] == text[-1]
    assert response("x").stats is not STATS  # a copy of its own


def filtered(*functions):
    instance = Instance("generate_until", {}, ("p", {}), 0, resps=[response("b "), response("a ")])
    build_filter_ensemble("f", [list(entry) for entry in functions]).apply([instance])
    return instance.filtered_resps["f"]


def test_lm_evals_filters_keep_them():
    assert filtered(("take_first", None)).stats == STATS
    kept = filtered(("remove_whitespace", None), ("lowercase", None), ("take_first_k", {"k": 2}))
    assert kept == ["b", "a"] and all(r.stats == STATS for r in kept)
    (voted,) = filtered(("majority_vote", None))
    assert voted.stats == STATS


def test_a_regex_filter_builds_new_strings():
    (first, _) = filtered(("regex", {"regex_pattern": "(a|b)"}))
    assert first == "b" and not isinstance(first, NablaResponse)
    assert cost_metrics([first]) == {}  # and then there are no cost metrics, but no crash


def test_cost_metrics_are_means_over_the_responses_of_a_document():
    other = NablaResponse("", {**STATS, "model_calls": 20, "candidates": 5, "rejected": 4})
    assert cost_metrics([response(), other]) == {
        "model_calls": 16.0,
        "generated_tokens": 7.0,
        "rejection_rate": 6 / 8,
    }
    none = NablaResponse("", {**STATS, "candidates": 0, "rejected": 0})
    assert "rejection_rate" not in cost_metrics([none])
    assert cost_metrics(["plain"]) == {}


def test_results_of_one_and_of_several_repeats_are_listed():
    assert listed(["a"]) == ["a"]
    assert listed([["a", "b"]]) == ["a", "b"]
