"""Output that no method can use: each stops, answers with what there is, and counts it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scripted_trees import PROBLEM, ScriptedTree, trajectory

from nabla_eval.engine.drive import drive_all
from nabla_eval.methods.registry import configure, start

POOLS = {"greedy": {}, "self_consistency": {"n": 3}, "best_of_n": {"n": 3},
         "weighted_best_of_n": {"n": 3}}  # fmt: skip
SEARCHES = {"beam": {}, "tree_of_thought": {}, "rap": {"iterations": 2}}


def endless(request):
    return trajectory("x" * request.problem.max_new_tokens, "length")


def solve(method, write, **options):
    script = ScriptedTree(lambda text, i: "", lambda text: 0.0, says=lambda question, i: "so")
    script.write = write
    (outcome,) = drive_all([start(PROBLEM, configure(method, options))], script)
    return outcome


@pytest.mark.parametrize("method", POOLS)
def test_samples_that_run_away_are_counted(method):
    outcome = solve(method, endless, **POOLS[method])
    assert outcome.stop == "length" and outcome.stats()["truncated"]
    assert outcome.malformed == POOLS[method].get("n", 1)
    assert solve(method, lambda request: trajectory("ok."), **POOLS[method]).malformed == 0


@pytest.mark.parametrize("method", SEARCHES)
def test_searches_whose_every_step_runs_away_say_so(method):
    outcome = solve(method, endless, step="semicolon", **SEARCHES[method])
    assert outcome.ended == "malformed" and outcome.stats()["truncated"]
    assert outcome.malformed == len(outcome.steps) > 0


@pytest.mark.parametrize("method", SEARCHES)
def test_searches_over_empty_steps_say_so(method):
    outcome = solve(
        method, lambda request: trajectory("", "step"), step="semicolon", **SEARCHES[method]
    )
    assert outcome.ended == "malformed" and outcome.malformed == len(outcome.steps) > 0


def test_tpo_counts_runaway_drafts_and_revisions_once():
    writes = iter(["ab", "cd"])

    def write(request):
        if request.problem.text != "Q":  # critique, gradient and then two revisions
            kind = "x" * 60 if request.problem.text.count("revis") else "do this"
            return trajectory(kind, "length" if kind.startswith("x") else "eos")
        return trajectory(next(writes), "length")

    outcome = solve("tpo", write, iterations=1)
    runaway = sum(draft.stop == "length" for draft in outcome.drafts)
    noted = sum(bool(s.note) for s in outcome.steps if s.kind != "revision")
    assert outcome.malformed == runaway + noted and runaway >= 2


def test_what_max_calls_cut_short_is_no_fault_of_the_policy():
    def write(request):
        return trajectory("x" * request.problem.max_new_tokens, "length")

    outcome = solve("best_of_n", write, n=3, max_calls=30)
    assert outcome.ended == "max_calls" and outcome.malformed == 0


def test_methods_that_keep_no_drafts_have_no_count():
    outcome = solve("greedy", lambda request: trajectory("ok."))
    assert replace(outcome, drafts=()).malformed is None
