"""Run folders: found wherever they are, pooled by configuration, refused where they would lie."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_folders import BEST_OF_N, MODELS, NABLA, candidate, record, sample, write_run

from nabla_eval.analysis.folders import find, read_folder
from nabla_eval.analysis.study import load, load_pair
from nabla_eval.cli.grading import grader
from nabla_eval.errors import DataError
from nabla_eval.reporting.overview import measure

OLD, NEW = "2026-11-24T10-00-00.000001", "2026-11-24T11-00-00.000001"


def nabla_run(folder, seed=0, docs=4, right=(1, 0, 1, 1), more=(), **changes):
    options = {**NABLA, **changes}
    records = [
        record(i, seed=seed, config=options, candidates=[candidate("rejected")], **dict(more))
        for i in range(docs)
    ]
    return write_run(folder, records, right[:docs], seed=seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return nabla_run(tmp_path / "a")


def test_the_layouts_of_lm_eval_demo_and_run_are_found(tmp_path):
    plain = nabla_run(tmp_path / "plain")
    inside = write_run(tmp_path / "run", [record(0)], [1.0], traces="traces")
    demo = write_run(tmp_path / "demo", [record(0)], [1.0], inner=".")
    (demo / f"results_{OLD}.json").rename(demo / "results.json")
    (demo / f"samples_toy_{OLD}.jsonl").rename(demo / "samples_toy.jsonl")
    assert find(tmp_path) == sorted([plain, inside, demo])
    for home in (plain, inside, demo):
        assert find(home) == [home]
        (run,) = read_folder(home)
        assert (run.task, run.seeds) == ("toy", (0,))
    assert find(plain / "trace-rank0.jsonl") == [plain]


def test_run_json_knows_better_than_lm_evals_results(tmp_path, folder):
    facts = {"schema": 1, "seed": 7, "preset": "paper", "seconds": 12.5}
    (folder / "run.json").write_text(json.dumps(facts))
    (run,) = load([folder])
    assert run.seeds == (7,) and run.preset == "paper" and run.seconds == 12.5
    assert run.name == "nabla paper n=8"
    (folder / "run.json").write_text(json.dumps({**facts, "status": "done", "continued": 1}))
    assert math.isnan(load([folder])[0].seconds)  # those of the last sitting only
    other = nabla_run(tmp_path / "b", lr=0.1)
    (other / "run.json").write_text(json.dumps({"schema": 1, "status": "failed"}))
    with pytest.warns(UserWarning, match=r"b is left out: its run\.json says 'failed'"):
        (run,) = load([tmp_path])
    assert run.folders == (folder,)


def test_runs_that_left_no_traces_are_named(tmp_path):
    study = tmp_path / "study"
    nabla_run(study / "a")
    cells = [{"folder": name, "state": "done"} for name in "ab"]
    cells += [{"folder": "c", "state": "failed", "error": "no \x1b[2J GPU"}]
    cells += [{"folder": "d", "state": "waiting"}, {"folder": "e", "state": "failed"}]
    (study / "study.json").write_text(json.dumps({"schema": 1, "cells": cells}))
    facts = {"a": {"status": "done", "error": None}, "c": {"status": "failed", "error": "no GPU"}}
    facts |= {"e": {"status": "running"}, "f": {"status": "failed", "error": "line\n" * 90}}
    for name, told in facts.items():
        (study / name).mkdir(exist_ok=True)
        (study / name / "run.json").write_text(json.dumps({"schema": 1, **told}))
    message = (
        r"4 runs left no answers: study/c \(no .*GPU\), study/d \(waiting\), study/e .* 1 more"
    )
    with pytest.warns(UserWarning, match=message) as told:
        (run,) = load([study])
    assert run.folders == (study / "a",) and "\x1b" not in str(told[0].message)
    with pytest.raises(DataError, match=r"1 run left no answers: f \(line line .*…\)\. Run the"):
        find(study / "f")
    (study / "e" / "run.json").write_text("{")  # torn: the sweep tells its state
    (study / "study.json").write_text(json.dumps({"schema": 1, "cells": [{"folder": 3}]}))
    with pytest.warns(UserWarning, match="2 runs left"):
        assert find(study) == [study / "a"]


@pytest.mark.parametrize("docs", [2, 6])
def test_a_smaller_limit_in_the_same_folder_is_told_from_an_unfinished_run(tmp_path, docs):
    home = nabla_run(tmp_path / "a")
    write_run(home, [], [], samples=[sample(i, 1.0) for i in range(docs)], date=NEW)
    message = {
        2: r"2 problems of toy are traced but not scored .*'toy/2'\)\. .* the larger --limit",
        6: r"2 problems of toy are scored but not traced .*'toy/4'\)\. .* same command again",
    }
    with (
        pytest.warns(UserWarning, match="2 evaluations"),
        pytest.raises(DataError, match=message[docs]),
    ):
        load([home])


def test_a_run_below_another_tells_it_nothing(tmp_path):
    outer = nabla_run(tmp_path / "N", seed=1)
    inner = write_run(outer / "zz", [record(0, seed=7)], [0.0], seed=7, preset="paper", date=NEW)
    (deeper,) = (inner / "model").rglob("results_*")
    told = {**json.loads(deeper.read_text()), "configs": {"toy": {"metadata": {"items_hash": "x"}}}}
    deeper.write_text(json.dumps(told))
    (inner / "run.json").write_text(json.dumps({"schema": 1, "seconds": 3.0}))
    (own,), (other,) = read_folder(outer), read_folder(inner)
    assert (own.seeds, own.preset, own.grader, len(own.scores)) == ((1,), None, "", 4)
    assert (other.seeds, other.preset, other.grader) == ((7,), "paper", "nabla_eval")
    assert math.isnan(own.seconds) and other.seconds == 3
    (measured,) = measure(outer)
    assert len(measured.scores) == 4
    (outer / "model").rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="N: toy has traces but no samples"):
        assert read_folder(outer) == []
    with pytest.raises(DataError, match="holds no results"):
        measure(outer)


def test_each_task_of_a_folder_has_the_facts_of_its_own_evaluation(tmp_path):
    home = nabla_run(tmp_path / "a", seed=1)
    (first,) = home.rglob("results_*")
    told = {**json.loads(first.read_text()), "configs": {"toy": {"metadata": {"items_hash": "x"}}}}
    first.write_text(json.dumps(told))
    write_run(home, [record(0, task="other", seed=2)], [1], task="other", seed=2, date=NEW)
    found = {run.task: (run.seeds, run.grader) for run in read_folder(home)}
    assert found == {"toy": ((1,), "nabla_eval"), "other": ((2,), "")}


def test_seeds_of_one_configuration_are_repeats_of_the_same_problems(tmp_path):
    nabla_run(tmp_path / "a", right=(1, 0, 1, 1))
    moved = {**MODELS, "policy": "/elsewhere/policy", "reward": "/elsewhere/reward"}
    nabla_run(tmp_path / "b", seed=1, right=(0, 0, 1, 1), more={"models": moved})
    (run,) = load([tmp_path])
    assert run.seeds == (0, 1) and run.repeats == 2 and len(run.answers) == 8
    assert run.scores == {
        "toy/0": [1.0, 0.0], "toy/1": [0.0, 0.0], "toy/2": [1.0, 1.0], "toy/3": [1.0, 1.0],
    }  # fmt: skip


@pytest.mark.parametrize("cut", [False, True])
def test_the_same_seed_twice_is_no_further_evidence(tmp_path, folder, cut):
    shutil.copytree(folder, tmp_path / "b")
    if cut:  # the first problem is missing
        for file in (tmp_path / "b").rglob("*.jsonl"):
            file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    with pytest.warns(UserWarning) as told:
        (run,) = load([tmp_path], common=True)
    assert re.search("b repeats the run in .*a", str(told[-1].message))
    assert run.repeats == 1
    assert load([folder, folder, folder / "model" / ".."])[0].repeats == 1


def test_names_say_what_sets_runs_apart(tmp_path):
    changes = {
        "a": {}, "b": {"lr": 0.1}, "c": {"n": 4}, "d": {"steps": 0}, "e": {"stop_reward": 2.0},
        "f": {"lr": 0.1, "steps": 0},
    }  # fmt: skip
    for name, changed in changes.items():
        nabla_run(tmp_path / name, **changed)
    other = {**MODELS, "reward": "org/other", "reward_hash": "r2"}
    best = [record(i, method="best_of_n", config=BEST_OF_N, models=other) for i in range(4)]
    write_run(tmp_path / "g", best, [1, 1, 0, 0])
    assert {run.folders[0].name: run.name for run in load([tmp_path])} == {
        "a": "nabla n=8 reward=reward",
        "b": "nabla n=8 lr=0.1 reward=reward",
        "c": "nabla n=4 reward=reward",
        "d": "nabla twin n=8 reward=reward",
        "e": "nabla n=8 stop_reward=2 reward=reward",
        "f": "nabla twin n=8 lr=0.1 reward=reward",
        "g": "best_of_n n=8 reward=org/other",
    }


def test_tasks_of_one_folder_are_runs_of_their_own(tmp_path):
    home = write_run(tmp_path / "a", [record(i) for i in range(3)], [1, 0, 1])
    other = [record(i, task="other_task") for i in range(2)]
    write_run(home, other, [1, 1], task="other_task")
    assert [(run.task, len(run.scores)) for run in load([tmp_path])] == [
        ("other_task", 2), ("toy", 3),
    ]  # fmt: skip
    assert [run.task for run in load([tmp_path], tasks=["toy"])] == ["toy"]
    with pytest.raises(DataError, match="finished run of elsewhere"):
        load([tmp_path], tasks=["elsewhere"])
    write_run(home, [], [], task="ppl", samples=[sample(0, 1.0)])
    with pytest.warns(UserWarning, match="ppl has samples but no traces"):
        assert len(load([home])) == 2


def test_the_newest_evaluation_of_a_folder_counts(folder):
    write_run(folder, [], [], samples=[sample(i, 0.0) for i in range(4)], date=NEW)
    with pytest.warns(UserWarning, match="2 evaluations of toy; the newest"):
        (run,) = load([folder])
    assert set(map(tuple, run.scores.values())) == {(0.0,)}


def test_metrics_and_filters(tmp_path):
    lines = [sample(i, float(i > 0), truncated=0.5) for i in range(3)]
    lines += [{**sample(i, 1.0), "filter": "loose"} for i in range(3)]
    del lines[1]["truncated"]  # a sample may lack a metric
    home = write_run(tmp_path / "a", [record(i) for i in range(3)], [], samples=lines)
    (run,) = load([home])
    assert run.scores == {"toy/0": [0.0], "toy/1": [1.0], "toy/2": [1.0]}
    assert run.metrics == {"truncated": {"toy/0": [0.5], "toy/2": [0.5]}}
    (loose,) = load([home], metric="exact_match,loose")
    assert set(map(tuple, loose.scores.values())) == {(1.0,)}
    for metric, message in (
        ("exact_match,strict", "no filter 'strict'"),
        ("acc", r"no metric 'acc'; it has exact_match, truncated\. Name one"),
    ):
        with pytest.raises(DataError, match=message):
            load([home], metric=metric)


def test_different_items_are_refused_or_cut_when_asked(tmp_path):
    nabla_run(tmp_path / "a")
    nabla_run(tmp_path / "b", docs=3, lr=0.1)
    message = r"same problems: a has 4, b has 3; 3 are common to all\. Give --common"
    with pytest.raises(DataError, match=message):
        load([tmp_path])
    with pytest.warns(UserWarning, match="the 3 common ones are used"):
        runs = load([tmp_path], common=True)
    with pytest.warns(UserWarning, match="the 3 common ones are used"):
        (a,), (b,) = load_pair(tmp_path / "a", tmp_path / "b", common=True)
    for run in (*runs, a, b):
        assert len(run.scores) == len(run.answers) == len(run.candidates) == 3
    assert [a.name, b.name] == ["nabla n=8 lr=0.01", "nabla n=8 lr=0.1"]
    other = [{**sample(i, 1.0), "doc_hash": "another"} for i in range(4)]
    records = [record(i, config={**NABLA, "lr": 1.0}) for i in range(4)]
    shutil.rmtree(tmp_path / "b")
    write_run(tmp_path / "b", records, [], samples=other)
    for common, message in ((False, "0 are common"), (True, "none is common")):
        with pytest.raises(DataError, match=message):
            load([tmp_path], common=common)


def test_mixed_versions_are_a_warning(tmp_path, folder):
    versions = {"nabla_eval": "0.2.0", "python": "3.11.7", "torch": "2.13.0"}
    nabla_run(tmp_path / "b", seed=1, more={"versions": versions})
    with pytest.warns(UserWarning, match=r"different versions: nabla_eval 0\.1\.0, 0\.2\.0"):
        load([tmp_path])


def cut_line(text):
    lines = text.splitlines(keepends=True)
    return lines[0] + lines[1][:40] + "\n" + "".join(lines[2:])


@pytest.mark.parametrize(
    ("which", "spoil", "message"),
    [
        ("samples_*", lambda text: text.replace('"doc_id": 2', '"doc": 2'), r":3 is damaged"),
        ("samples_*", lambda text: text[:-30] + "\n", r"samples_.*:4 is damaged"),
        ("samples_*", lambda text: text + text.splitlines()[0] + "\n", r":5 repeats document 0"),
        ("samples_*", lambda text: "", r"is empty"),
        ("samples_*", lambda text: text.replace('match": 0', 'match": null'), "no finite number"),
        ("samples_*", lambda text: "".join(text.splitlines(keepends=True)[:3]),
         r"1 problems of toy are .* \(first: 'toy/3'\)"),
        ("trace-*", cut_line, r"trace-rank0\.jsonl:2 is damaged"),
        ("run.json", lambda text: "{", r"run\.json cannot be read \(.+\)\. Run again, or remove"),
        ("run.json", lambda text: "[]", r"run\.json: it must be a mapping, got a list"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(folder, which, spoil, message):
    (folder / "run.json").write_text("{}")
    (file,) = folder.rglob(which)
    file.write_text(spoil(file.read_text()))
    with pytest.raises(DataError, match=message):
        load([folder])


def test_a_torn_last_line_never_makes_a_table_of_the_rest(folder):
    file = folder / "trace-rank0.jsonl"
    file.write_text(file.read_text()[:-40])
    with (
        pytest.warns(UserWarning, match="torn"),
        pytest.raises(DataError, match=r"1 problems of toy are scored but not traced.*'toy/3'"),
    ):
        load([folder])


def test_folders_without_whole_runs_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*nowhere\. Give the --output_path"):
        load([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="No traces"):
        load([tmp_path])
    short = write_run(tmp_path / "a", [record(0, 0), record(0, 1), record(1, 0)], [1, 0.5])
    message = r"1 problems of toy .* fewer than 2 traced answers .*'toy/1'\)\. The run is not"
    with pytest.raises(DataError, match=message):
        load([short])
    bare = nabla_run(tmp_path / "b")
    (bare / "model").rename(tmp_path / "elsewhere")
    with (
        pytest.warns(UserWarning, match=r"b: toy has traces but no samples_toy.* left out"),
        pytest.raises(DataError, match="None of 1 run folders holds a finished run"),
    ):
        load([bare])


def test_failed_problems_are_left_out_with_a_warning(tmp_path):
    samples = [sample(0, 1.0), {**sample(1, 0.0), "failed": 1.0}, sample(2, 0.0)]
    del samples[1]["exact_match"]
    home = write_run(tmp_path / "a", [record(0), record(2)], [], samples=samples)
    with pytest.warns(UserWarning, match=r"1 of 3 problems of toy failed \(first: 'toy/1'\)"):
        (run,) = load([home])
    assert run.scores == {"toy/0": [1.0], "toy/2": [0.0]}
    samples = [{**sample(0, 0.0), "failed": 1.0}]
    home = write_run(tmp_path / "b", [record(1)], [], samples=samples)
    with pytest.warns(UserWarning), pytest.raises(DataError, match="all problems of toy failed"):
        load([home])


def test_runs_of_different_graders_are_not_compared(tmp_path):
    def graded(name, metadata, lr):
        records = [record(i, config={**NABLA, "lr": lr}) for i in range(2)]
        home = write_run(tmp_path / name, records, [1.0, 0.0])
        (file,) = home.rglob("results_*.json")
        configs = {"toy": {} if metadata is None else {"metadata": metadata}}
        file.write_text(json.dumps({**json.loads(file.read_text()), "configs": configs}))
        return home

    before = graded("before", {"items_hash": "x"}, 0.1)  # when nobody else graded
    ours = graded("ours", {"items_hash": "x", "grader": "nabla_eval"}, 0.2)
    theirs = graded("theirs", {"items_hash": "x", "grader": "math_verify"}, 0.3)
    graders = [run.grader for home in (before, ours, theirs) for run in read_folder(home)]
    assert graders == ["nabla_eval", "nabla_eval", "math_verify"]
    (run,) = read_folder(theirs)
    judge, response = grader("nabla_math500"), r"\boxed{ddo}"
    assert judge({**run.docs["toy/0"], "target": "odd"}, response)  # graded now, by the same rules
    assert not judge({"target": "odd"}, response)
    assert [run.grader for run in read_folder(graded("other", None, 0.4))] == [""]
    assert len(load([before, ours])) == 2
    with pytest.raises(DataError, match=r"of toy were graded by different rules: nabla_eval"):
        load([ours, theirs], common=True)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), which=st.sampled_from(["results", "samples"]))
def test_wherever_a_kill_tears_a_file_of_lm_evals_it_is_refused_or_whole(
    folder: Path, share: float, which: str
) -> None:
    (file,) = folder.rglob(f"{which}_*")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    try:
        (run,) = read_folder(folder)
        assert list(run.scores.values()) == [[1], [0], [1], [1]] and share > 0.99
    except DataError as error:
        assert re.search(r"[Rr]un (again|the same command again)|Evaluate again", str(error))
    finally:
        file.write_bytes(whole)
