"""The overview of `report all`: each sentence follows from the numbers of hand-made runs."""

from __future__ import annotations

import pytest
from run_folders import BEST_OF_N, MODELS, NABLA, as_run, record

from nabla_eval.reporting.accuracy import accuracy_report
from nabla_eval.reporting.cost import cost_report, scaling_report
from nabla_eval.reporting.summary import summary_report

P = 40
TWIN = {**NABLA, "steps": 0}
GREEDY = {"temperature": 0.0}


def make(name, right, calls, config=NABLA, *, method="nabla", task="toy", **changes):
    """A run that is right on the first `right` of P problems."""
    records = [
        record(i, task=task, method=method, config=config, calls=calls, **changes) for i in range(P)
    ]
    return as_run(records, {f"{task}/{i}": [float(i < right)] for i in range(P)}, name)


def said(*runs):
    report = summary_report(runs, accuracy_report(runs), scaling_report(runs))
    return list(report.sentences)


def one(sentences, start):
    (found,) = [sentence for sentence in sentences if sentence.startswith(start)]
    return found


greedy = make("greedy", 10, 10.0, GREEDY, method="greedy")
best = make("best", 30, 90.0, BEST_OF_N, method="best_of_n")


@pytest.mark.parametrize(
    ("right", "start", "words"),
    [
        (38, "The gradient helps", ("nabla is 45.0 points above its twin", "125.0 % of its calls")),
        (2, "The gradient hurts", ("nabla is 45.0 points below its twin", "corrected p <0.001")),
        (21, "No effect of the gradient", ("nabla and its twin", "cannot be told apart")),
        (20, "No effect of the gradient", ("cannot be told apart", "95 % interval -")),
    ],
)
def test_the_gradient_helps_or_hurts_only_where_the_test_and_the_interval_say_so(
    right, start, words
):
    runs = make("nabla", right, 50.0), make("twin", 20, 40.0, TWIN)
    found = [s for s in said(*runs) if "gradient" in s and "Not measured" not in s]
    assert len(found) == 1 and found[0].startswith(start)
    assert all(word in found[0] for word in words)


def test_effects_of_both_signs_and_none_are_each_counted():
    runs = []
    for i, right in enumerate((38, 2, 20)):
        options = {"lr": 0.1 * (i + 1), "n": 8 + i}
        runs.append(make(f"nabla{i}", right, 50.0, {**NABLA, **options}))
        runs.append(make(f"twin{i}", 20, 40.0, {**TWIN, **options}))
    found = " ".join(said(*runs))
    assert "The gradient helps in 1 of 3 comparisons, most: nabla0" in found
    assert "The gradient hurts in 1 of 3 comparisons, most: nabla1" in found
    assert "In 1 of 3 comparisons a run and its twin" in found and "No effect" not in found


def test_certified_draws_explain_that_nothing_differs():
    outcome = {
        "text": "4", "tokens": [1], "stop": "eos", "reward": 0.0, "ended": "done",
        "visited": 10, "certified": 9, "positions": 12,
    }  # fmt: skip
    runs = make("nabla", 20, 50.0, outcome=outcome), make("twin", 20, 40.0, TWIN)
    assert "could have changed 90.0 % of the draws" in one(said(*runs), "No effect")


def test_a_run_without_its_twin_leaves_the_gradient_unmeasured():
    found = said(make("nabla", 38, 50.0), best)
    assert "was not measured" in one(found, "Whether the gradient helps")
    assert not any(s.startswith(("The gradient", "No effect")) for s in found)
    assert not any("gradient" in s for s in said(greedy, best))  # nobody takes any


def test_climbs_by_cost_are_those_that_are_shown():
    nearly = make("nearly", 31, 95.0, {**BEST_OF_N, "n": 9}, method="best_of_n")
    found = said(greedy, best, nearly)
    assert one(found, "nearly is right most often").count("77.5 %") == 1
    by_cost = one(found, "By cost")
    assert "greedy (25.0 %, 10.0 calls), then best (75.0 %, 90.0 calls)." in by_cost
    assert by_cost.endswith("Nothing dearer is shown to be better.")
    dull = make("dull", 12, 90.0, BEST_OF_N, method="best_of_n")
    assert "the cheapest run, greedy (25.0 %, 10.0 calls)" in one(said(greedy, dull), "Nothing is")


def test_as_often_for_more_is_said():
    same = make("dear", 30, 95.0, {**BEST_OF_N, "n": 9}, method="best_of_n")
    assert "; 1 other is as often, for no fewer." in one(said(greedy, best, same), "best is right")


def test_one_run_alone_shows_no_gain():
    found = said(best)
    assert "shows no gain" in one(found, "best is the only run (75.0 %, 95 % interval ")
    assert not any(s.startswith(("How sure", "By cost")) for s in found)


def test_what_was_not_measured_is_named():
    lacks = one(said(make("nabla", 20, 50.0)), "Not measured")
    assert all(word in lacks for word in ("best-of-N", "equal calls", "other seeds", "other tasks"))
    assert "any reward" not in lacks
    bare = make("bare", 10, 10.0, GREEDY, method="greedy", drafts=[None], reward=None)
    assert "any reward" in one(said(bare), "Not measured")
    other = make("o", 10, 10.0, GREEDY, method="greedy", task="b",
                 models={**MODELS, "policy": "p2", "policy_hash": "p2"})  # fmt: skip
    both = one(said(greedy, other), "Not measured")
    assert (
        "tasks" not in both
        and "other policies" not in both
        and "price of a call" in both
        and "equal calls" not in both
    )


def test_each_task_has_its_own_climb_and_the_intervals_say_how_sure():
    runs = [
        make(f"{name}-{task}", right, calls, config, method=method, task=task, drafts=[0.0] * 8)
        for task in ("a", "b")
        for name, method, right, calls, config in (
            ("greedy", "greedy", 10, 10.0, GREEDY), ("best", "best_of_n", 30, 90.0, BEST_OF_N),
            ("nabla", "nabla", 30, 50.0, NABLA), ("twin", "nabla", 29, 40.0, TWIN),
        )
    ]  # fmt: skip
    for report in (accuracy_report(runs), cost_report(runs)):
        assert {sentence.partition(": ")[0] for sentence in report.sentences} == {"a", "b"}
    found = said(*runs)
    assert found[0].startswith("a: By cost: greedy-a") and found[1].startswith("b: By cost")
    sure = one(found, "How sure: 40 problems a run")
    assert "points to either side" in sure
