"""Run folders: found wherever they are, pooled by configuration, refused where they would lie."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_folders import BEST_OF_N, MODELS, NABLA, candidate, record, sample, write_run

from nabla_eval.analysis.folders import find, read_folder
from nabla_eval.analysis.study import _same_items, load
from nabla_eval.cli.grading import grader
from nabla_eval.errors import DataError


def nabla_run(folder, seed=0, docs=4, right=(1, 0, 1, 1), **changes):
    options = {**NABLA, **changes}
    records = [
        record(i, seed=seed, config=options, candidates=[candidate("rejected")])
        for i in range(docs)
    ]
    return write_run(folder, records, right[:docs], seed=seed)


def test_the_layouts_of_lm_eval_demo_and_run_are_found(tmp_path):
    plain = nabla_run(tmp_path / "plain")
    inside = write_run(tmp_path / "run", [record(0)], [1.0], traces="traces")
    apart = write_run(tmp_path / "apart", [record(0)], [1.0], traces="deep/er", inner="out")
    demo = tmp_path / "demo"
    write_run(demo, [record(0)], [1.0], inner=".")
    (demo / "results_2026-11-24T10-00-00.000001.json").rename(demo / "results.json")
    (demo / "samples_toy_2026-11-24T10-00-00.000001.jsonl").rename(demo / "samples_toy.jsonl")
    assert find(tmp_path) == sorted([plain, inside, apart, demo])
    for folder in (plain, inside, apart, demo):
        assert find(folder) == [folder]
        (run,) = read_folder(folder)
        assert (run.task, run.seeds) == ("toy", (0,))
    assert find(plain / "trace-rank0.jsonl") == [plain]


def test_run_json_knows_better_than_lm_evals_results(tmp_path):
    folder = nabla_run(tmp_path / "a")
    content = {"schema": 1, "seed": 7, "preset": "paper", "seconds": 12.5}
    (folder / "run.json").write_text(json.dumps(content))
    (run,) = load([folder])
    assert run.seeds == (7,) and run.preset == "paper" and run.seconds == 12.5
    assert run.name == "nabla paper n=8"


def test_what_run_json_calls_unfinished_is_left_out(tmp_path):
    nabla_run(tmp_path / "a")
    nabla_run(tmp_path / "b", lr=0.1)
    (tmp_path / "b" / "run.json").write_text(json.dumps({"schema": 1, "status": "failed"}))
    with pytest.warns(UserWarning, match=r"b is left out: its run\.json says 'failed'"):
        (run,) = load([tmp_path])
    assert run.folders[0].name == "a"
    content = {"schema": 1, "status": "done", "seconds": 9.0, "continued": 1}
    (tmp_path / "a" / "run.json").write_text(json.dumps(content))
    (run,) = load([tmp_path / "a"])
    assert math.isnan(run.seconds)  # those of the last sitting only


def test_seeds_of_one_configuration_are_repeats_of_the_same_problems(tmp_path):
    nabla_run(tmp_path / "a", seed=0, right=(1, 0, 1, 1))
    nabla_run(tmp_path / "b", seed=1, right=(0, 0, 1, 1))
    (run,) = load([tmp_path])
    assert run.seeds == (0, 1) and run.repeats == 2 and len(run.answers) == 8
    assert run.scores == {
        "toy/0": [1.0, 0.0], "toy/1": [0.0, 0.0], "toy/2": [1.0, 1.0], "toy/3": [1.0, 1.0],
    }  # fmt: skip


def test_the_same_seed_twice_is_no_further_evidence(tmp_path):
    nabla_run(tmp_path / "a")
    nabla_run(tmp_path / "b")
    with pytest.warns(UserWarning, match="b repeats the run in .*a"):
        (run,) = load([tmp_path])
    assert run.repeats == 1
    assert load([tmp_path / "a", tmp_path / "a", tmp_path / "a" / "model" / ".."])[0].repeats == 1


def test_names_say_what_sets_runs_apart(tmp_path):
    nabla_run(tmp_path / "a")
    nabla_run(tmp_path / "b", lr=0.1)
    nabla_run(tmp_path / "c", n=4)
    nabla_run(tmp_path / "d", steps=0)
    nabla_run(tmp_path / "e", stop_reward=2.0)
    nabla_run(tmp_path / "f", lr=0.1, steps=0)  # idle in a twin, so only named where it must be
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


def test_a_model_in_another_place_is_the_same_model(tmp_path):
    nabla_run(tmp_path / "a")
    moved = {**MODELS, "policy": "/elsewhere/policy"}
    records = [
        record(i, seed=1, models=moved, candidates=[candidate("rejected")]) for i in range(4)
    ]
    write_run(tmp_path / "b", records, [1, 1, 1, 1], seed=1)
    (run,) = load([tmp_path])
    assert run.seeds == (0, 1)


def test_tasks_of_one_folder_are_runs_of_their_own(tmp_path):
    write_run(tmp_path / "a", [record(i) for i in range(3)], [1, 0, 1])
    write_run(tmp_path / "a", [record(i, task="other_task") for i in range(2)], [1, 1],
              task="other_task")  # fmt: skip
    runs = load([tmp_path])
    assert [(run.task, len(run.scores)) for run in runs] == [("other_task", 2), ("toy", 3)]
    assert [run.task for run in load([tmp_path], tasks=["toy"])] == ["toy"]
    with pytest.raises(DataError, match="finished run of elsewhere"):
        load([tmp_path], tasks=["elsewhere"])


def test_the_newest_evaluation_of_a_folder_counts(tmp_path):
    nabla_run(tmp_path / "a")
    later = [sample(i, 0.0) for i in range(4)]
    write_run(tmp_path / "a", [], [], samples=later, date="2026-11-25T10-00-00.000001")
    with pytest.warns(UserWarning, match="2 evaluations of toy; the newest"):
        (run,) = load([tmp_path])
    assert set(map(tuple, run.scores.values())) == {(0.0,)}


def test_metrics_and_filters(tmp_path):
    lines = [sample(i, float(i > 0), truncated=0.5) for i in range(3)]
    lines += [{**sample(i, 1.0), "filter": "loose"} for i in range(3)]
    del lines[1]["truncated"]  # a sample may lack a metric
    folder = write_run(tmp_path / "a", [record(i) for i in range(3)], [], samples=lines)
    (run,) = load([folder])
    assert run.scores == {"toy/0": [0.0], "toy/1": [1.0], "toy/2": [1.0]}
    assert run.metrics == {"truncated": {"toy/0": [0.5], "toy/2": [0.5]}}
    (loose,) = load([folder], metric="exact_match,loose")
    assert set(map(tuple, loose.scores.values())) == {(1.0,)}
    with pytest.raises(DataError, match="no filter 'strict'"):
        load([folder], metric="exact_match,strict")
    with pytest.raises(DataError, match="no metric 'acc'"):
        load([folder], metric="acc")


def test_different_items_are_refused_or_cut_when_asked(tmp_path):
    nabla_run(tmp_path / "a")
    nabla_run(tmp_path / "b", docs=3, lr=0.1)
    message = r"1 of 2 runs has 3 \(b\), 1 of 2 runs has 4 \(a\); 3 are common .* Give --common"
    with pytest.raises(DataError, match=message):
        load([tmp_path])
    with pytest.warns(UserWarning, match="the 3 common ones are used"):
        runs = load([tmp_path], common=True)
    assert [len(run.scores) for run in runs] == [3, 3]
    assert [len(run.answers) for run in runs] == [3, 3]


def test_the_same_number_of_other_items_is_noticed_too(tmp_path):
    nabla_run(tmp_path / "a")
    other = [{**sample(i, 1.0), "doc_hash": "another"} for i in range(4)]
    records = [record(i, config={**NABLA, "lr": 1.0}) for i in range(4)]
    write_run(tmp_path / "b", records, [], samples=other)
    with pytest.raises(DataError, match="0 are common"):
        load([tmp_path])
    with pytest.raises(DataError, match="none is common"):
        load([tmp_path], common=True)


def test_mixed_versions_are_a_warning(tmp_path):
    nabla_run(tmp_path / "a")
    versions = {"nabla_eval": "0.2.0", "python": "3.11.7", "torch": "2.13.0"}
    records = [record(i, config={**NABLA, "lr": 1.0}, versions=versions) for i in range(4)]
    write_run(tmp_path / "b", records, [1, 1, 1, 1])
    with pytest.warns(UserWarning, match=r"different versions: nabla_eval 0\.1\.0, 0\.2\.0"):
        load([tmp_path])


def test_a_damaged_trace_line_is_named(tmp_path):
    folder = nabla_run(tmp_path / "a")
    file = folder / "trace-rank0.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + lines[1][:40] + "\n" + "".join(lines[2:]))
    with pytest.raises(DataError, match=r"trace-rank0\.jsonl:2 is damaged"):
        load([folder])


def test_a_torn_last_line_never_makes_a_table_of_the_rest(tmp_path):
    folder = nabla_run(tmp_path / "a")
    file = folder / "trace-rank0.jsonl"
    file.write_text(file.read_text()[:-40])
    with (
        pytest.warns(UserWarning, match="torn"),
        pytest.raises(DataError, match=r"1 are scored but not traced.*'toy/3'"),
    ):
        load([folder])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace('"doc_id": 2', '"doc": 2'), r"samples_.*:3 is damaged"),
        (lambda text: text[:-30] + "\n", r"samples_.*:4 is damaged"),
        (lambda text: text + text.splitlines()[0] + "\n", r":5 repeats document 0"),
        (lambda text: "", r"is empty"),
        (lambda text: text.replace('"exact_match": 0', '"exact_match": null'), "no finite number"),
        (lambda text: "".join(text.splitlines(keepends=True)[:3]), "1 traced but not scored"),
    ],
)
def test_damaged_samples_are_named(tmp_path, spoil, message):
    folder = nabla_run(tmp_path / "a")
    (file,) = folder.rglob("samples_*.jsonl")
    file.write_text(spoil(file.read_text()))
    with pytest.raises(DataError, match=message):
        load([folder])


def test_missing_repeats_are_noticed(tmp_path):
    records = [record(0, 0), record(0, 1), record(1, 0)]
    folder = write_run(tmp_path / "a", records, [1, 0.5])
    message = r"1 problems of toy have fewer than 2 traced answers .*'toy/1'\)\. Run the same"
    with pytest.raises(DataError, match=message):
        load([folder])


def test_failed_problems_are_left_out_with_a_warning(tmp_path):
    samples = [sample(0, 1.0), {**sample(1, 0.0), "failed": 1.0}, sample(2, 0.0)]
    del samples[1]["exact_match"]
    folder = write_run(tmp_path / "a", [record(0), record(2)], [], samples=samples)
    with pytest.warns(UserWarning, match=r"1 of 3 problems of toy failed \(first: 'toy/1'\)"):
        (run,) = load([folder])
    assert run.scores == {"toy/0": [1.0], "toy/2": [0.0]}
    samples = [{**sample(0, 0.0), "failed": 1.0}]
    folder = write_run(tmp_path / "b", [record(1)], [], samples=samples)
    with pytest.warns(UserWarning), pytest.raises(DataError, match="all problems of toy failed"):
        load([folder])


def test_unfinished_runs_are_left_out_with_a_warning(tmp_path):
    nabla_run(tmp_path / "a")
    (nabla_run(tmp_path / "b", lr=0.1) / "model").rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match=r"b: toy has traces but no samples_toy"):
        (run,) = load([tmp_path / "a", tmp_path / "b"])
    assert run.folders[0].name == "a"
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(DataError, match="None of 1 run folders holds a finished run"),
    ):
        load([tmp_path / "b"])


def test_a_task_without_traces_is_left_out_with_a_warning(tmp_path):
    folder = nabla_run(tmp_path / "a")
    write_run(folder, [], [], task="ppl", samples=[sample(0, 1.0)])
    with pytest.warns(UserWarning, match="ppl has samples but no traces"):
        assert [run.task for run in load([folder])] == ["toy"]


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*nowhere\. Give the --output_path"):
        load([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="No traces"):
        load([tmp_path])


def test_a_damaged_results_file_is_named(tmp_path):
    folder = nabla_run(tmp_path / "a")
    (folder / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json cannot be read \(.+\)\. Run again, or remove"):
        load([folder])
    (folder / "run.json").write_text("[]")
    with pytest.raises(DataError, match=r"run\.json: it must be a mapping, got a list"):
        load([folder])


def test_runs_of_different_graders_are_not_compared(tmp_path):
    def graded(name, metadata):
        folder = write_run(tmp_path / name, [record(0), record(1)], [1.0, 0.0])
        (file,) = folder.rglob("results_*.json")
        told = json.loads(file.read_text())
        configs = {"toy": {} if metadata is None else {"metadata": metadata}}
        file.write_text(json.dumps({**told, "configs": configs}))
        return folder

    before = graded("before", {"items_hash": "x"})  # when nobody else graded
    ours = graded("ours", {"items_hash": "x", "grader": "nabla_eval"})
    theirs = graded("theirs", {"items_hash": "x", "grader": "math_verify"})
    assert [part.grader for f in (before, ours, theirs) for part in read_folder(f)] == [
        "nabla_eval", "nabla_eval", "math_verify",
    ]  # fmt: skip
    (part,) = read_folder(theirs)
    judge, response = grader("nabla_math500"), r"\boxed{ddo}"
    assert judge({**part.docs["toy/0"], "target": "odd"}, response)  # graded now, by the same rules
    assert not judge({"target": "odd"}, response)
    assert [part.grader for part in read_folder(graded("other", None))] == [""]
    assert _same_items([*read_folder(before), *read_folder(ours)], common=False)
    with pytest.raises(DataError, match=r"of toy were graded by different rules: nabla_eval"):
        _same_items([*read_folder(ours), *read_folder(theirs)], common=True)


# --- what a kill leaves of lm-eval's own files ---

OLD, NEW = "2026-11-24T10-00-00.000001", "2026-11-24T11-00-00.000001"


def twice_evaluated(folder: Path) -> tuple[Path, Path]:
    """A run that was evaluated twice; the newer results and samples."""
    write_run(folder, [record(0), record(1)], [1.0, 0.0], date=OLD, seed=3)
    write_run(folder, [], [1.0, 0.0], date=NEW, seed=3)
    inner = folder / "model"
    return inner / f"results_{NEW}.json", inner / f"samples_toy_{NEW}.jsonl"


@pytest.fixture
def newer(tmp_path: Path) -> tuple[Path, Path]:
    return twice_evaluated(tmp_path / "a")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), which=st.sampled_from([0, 1]))
def test_wherever_a_file_is_torn_the_scores_are_right(
    newer: tuple[Path, Path], share: float, which: int
) -> None:
    file, home = newer[which], newer[0].parent.parent
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (part,) = read_folder(home)
        assert part.scores == {"toy/0": [1.0], "toy/1": [0.0]} and part.seeds == (3,)
    except DataError as error:  # torn between two lines: its problems are not those of the traces
        assert which == 1 and "run the same command again" in str(error)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize("which", [0, 1])
def test_a_torn_file_is_named_and_so_is_what_is_read_instead(
    newer: tuple[Path, Path], which: int
) -> None:
    file, home = newer[which], newer[0].parent.parent
    file.write_bytes(file.read_bytes()[:20])
    with pytest.warns(UserWarning) as told:
        load([home])
    (words,) = [str(one.message) for one in told if "is read instead" in str(one.message)]
    assert file.name in words and file.name.replace(NEW, OLD) in words


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (0, r"results_.* cannot be read \(.+\)\. Run again"),
        (1, r"samples_.*:1 is damaged \(.+\)\. Evaluate again"),
    ],
)
def test_where_every_file_is_torn_it_is_refused(
    newer: tuple[Path, Path], which: int, message: str
) -> None:
    for file in (newer[which], Path(str(newer[which]).replace(NEW, OLD))):
        file.write_bytes(file.read_bytes()[:20])
    with pytest.warns(UserWarning), pytest.raises(DataError, match=message):
        load([newer[0].parent.parent])
