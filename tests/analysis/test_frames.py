"""The two frames that notebooks start from, against the files that they are read from."""

from __future__ import annotations

import math
import re

import pytest
from large_runs import write_large_run
from run_folders import BEST_OF_N, NABLA, candidate, record, sample, write_run

import nabla_eval
from nabla_eval.analysis import study
from nabla_eval.analysis.runs import Run
from nabla_eval.traces import read
from nabla_eval.traces.index import whole


@pytest.fixture
def folder(tmp_path):
    for seed in (0, 1):
        judged = [candidate("accepted", 1, norm=None), candidate("tie", 3, index=1, old=1.0)]
        lines = [record(i, seed=seed, candidates=judged[: i + 1]) for i in range(2)]
        write_run(tmp_path / f"nabla{seed}", lines, [1.0, float(seed)], seed=seed, preset="paper")
    drafts = {"method": "best_of_n", "config": BEST_OF_N, "drafts": [0.5, None]}
    lines = [record(i, repeat, **drafts) for i in range(2) for repeat in range(2)]
    samples = [sample(0, 1.0, 2, length=3.0), sample(1, 0.5, 2, length=5.0)]
    write_run(tmp_path / "best", lines, [], samples=samples)
    return tmp_path


def test_there_is_a_row_for_each_answer_and_for_each_candidate(folder):
    answers, candidates = nabla_eval.frame(folder)
    assert len(answers) == 4 + 4 and len(candidates) == 2 * (1 + 2)
    assert set(answers["run"]) == {"nabla paper n=8", "best_of_n n=8"} >= set(candidates["run"])
    assert not answers.duplicated(["run", "answer"]).any()
    joined = candidates.merge(answers, on=["run", "answer"], suffixes=("", "_of_answer"))
    assert len(joined) == len(candidates)
    ours = answers[answers["method"] == "nabla"]
    assert list(ours["seed"]) == [0, 0, 1, 1] and list(ours["score"]) == [1.0, 0.0, 1.0, 1.0]
    assert list(ours["candidates"]) == [1, 2, 1, 2] and set(ours["option.lr"]) == {NABLA["lr"]}
    best = answers[answers["method"] == "best_of_n"]
    assert list(best["score"][:2]) == [1.0, 1.0] and best["score"][2:].isna().all()  # 1/2: which?
    assert (
        list(best["metric.length"]) == [3.0, 3.0, 5.0, 5.0] and ours["metric.length"].isna().all()
    )
    assert list(best["draft_rewards"]) == [(0.5, None)] * 4 and set(best["first_reward"]) == {0.5}
    assert list(candidates["nth"]) == [1, 1, 2] * 2 and set(candidates["position"]) == {1, 3}
    assert candidates["gradient_norm"].isna().sum() == 4
    assert (candidates["new_reward"] - candidates["old_reward"] > 0).sum() == 4


def test_a_row_leads_back_to_its_whole_trace_line(folder):
    answers, _ = nabla_eval.frame(folder / "nabla1")
    found = [whole(stored) for stored in answers["record"]]
    assert found == read(folder / "nabla1")


def test_every_column_is_documented_and_every_documented_column_is_there(folder):
    words = set(re.findall(r"`([a-z_.A-Z]+)`", study.frame.__doc__ or ""))
    answers, candidates = nabla_eval.frame(folder)
    families = {name for name in answers if name.startswith(("option.", "metric."))}
    counts = set(record(0)["ledger"]) | {"prefix_scorings", "prefix_gradients"}
    plain = set(answers) - families - (counts - {"model_calls", "flops"})
    assert (plain | set(candidates)) - words == set()
    known = {"option.NAME", "metric.NAME", "exact_match", "metric", "tasks", "common"}
    known |= {"answers", "traces.index.whole", "DataError"}
    assert words - known - set(answers) - set(candidates) == set()


def test_frames_of_many_problems_take_a_few_kilobytes_an_answer(tmp_path):
    run = write_large_run(tmp_path, 40)
    answers, candidates = nabla_eval.frame(run)
    assert (len(answers), len(candidates)) == (40, 280)
    answers = answers.assign(text="")  # the answers' own texts
    size = answers.memory_usage(deep=True).sum() + candidates.memory_usage(deep=True).sum()
    assert size / 40 < 10_000


def test_seeds_with_other_numbers_of_repeats_keep_their_scores(tmp_path):
    write_run(tmp_path / "a", [record(0, 0), record(0, 1), record(0, 2)], [0.0])
    write_run(tmp_path / "b", [record(0, seed=1)], [1.0], seed=1)
    answers, _ = nabla_eval.frame(tmp_path)
    assert list(answers["score"]) == [0.0, 0.0, 0.0, 1.0]
    (run,) = study.load([tmp_path])
    assert isinstance(run, Run) and run.seeds == (0, 1) and not math.isnan(run.answers["score"][0])


def test_runs_without_candidates_leave_the_types_of_others_alone(folder):
    _, candidates = nabla_eval.frame(folder)
    assert [candidates[name].dtype.kind for name in ("nth", "sweep", "position")] == ["i"] * 3
