"""Several answers to a problem: which of them a score is of, by the filter that lm-eval applied."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from run_folders import record, sample, write_run

from nabla_eval.analysis.study import load
from nabla_eval.cli.trace_view import problems_of
from nabla_eval.reporting.accuracy import accuracy_row, accuracy_table
from nabla_eval.reporting.tables import to_markdown


def test_pass_at_weighs_seeds_by_their_answers(tmp_path):
    write_run(tmp_path / "a", [record(0, repeat) for repeat in range(3)], [0.0])
    write_run(tmp_path / "b", [record(0, seed=1)], [1.0], seed=1)
    (run,) = load([tmp_path])
    row = accuracy_row(run)
    assert row["pass_at"] == {"1": 0.25, "2": 0.5, "4": 1.0} and row["majority"] is not None


KINDS = {  # filter_list in lm-eval's results, filtered_resps; how many answers are graded
    "lm-eval's default": (None, ["a0"], 1),
    "its answer taken out": (["regex", "take_first"], ["0"], 1),
    "the first two": (["take_first_k", "regex"], [["a0", "a1"]], 2),
    "all": (["take_first_k"], [["a0", "a1", "a2", "a3"]], 4),
    "all and padding": (["custom"], [["a0", "a1", "a2", "a3", "a3"]], 4),
    "a vote": (["regex", "majority_vote", "take_first"], ["0"], 0),
    "a vote, in a list": (["majority_vote"], [["a0"]], 0),
    "someone's own": (["custom", "take_first"], ["a0"], 0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_score_belongs_to_the_answers_that_the_filter_kept(tmp_path, kind, score):
    steps, kept, graded = KINDS[kind]
    for seed in (0, 1):
        records = [record(0, repeat, seed=seed, text=f"a{repeat}") for repeat in range(4)]
        lines = [{**sample(0, score), "resps": [["a0", "a1", "a2", "a3"]], "filtered_resps": kept}]
        home = write_run(tmp_path / str(seed), records, [], samples=lines, seed=seed)
        chain = steps and [{"name": "none", "filter": [{"function": step} for step in steps]}]
        (file,) = home.rglob("results_*")
        told = {**json.loads(file.read_text()), "configs": {"toy": {"filter_list": chain}}}
        file.write_text(json.dumps(told))
    (tmp_path / "1" / "run.json").write_text('{"schema": 1, "seed": 1}')  # by `nabla-eval run`
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (run,) = load([tmp_path])
    expected = ([score] * graded + [math.nan] * (4 - graded)) * 2
    for name in ("score", "mean_score"):
        np.testing.assert_array_equal(run.answers[name], expected)
    row = accuracy_row(run)
    sizes = [str(2**i) for i in range((2 * graded).bit_length())]
    assert row["pass_at"] == dict.fromkeys(sizes, score)
    assert (row["accuracy"], row["repeats"], row["graded"]) == (score, 8, 2 * graded)
    assert (row["majority"] is not None) == (graded == 4)
    shown = to_markdown(accuracy_table([run]))
    assert ("1 × 8 |" in shown, "graded" in shown) == (graded == 4, graded < 4)
    words = [str(each.message) for each in caught]
    assert len(words) == (0 if graded == 4 else 2)
    assert all("take_first_k, k: 4" in each for each in words)
    assert ["without its results_*" in each for each in words] == [False, True][: len(words)]
    with problems_of(tmp_path / "0") as problems:
        right = [problem.brief().right[1] for problem in problems]
    assert right == [score == 1] * graded + [None] * (4 - graded)
