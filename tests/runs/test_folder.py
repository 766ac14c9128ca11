"""A run folder is claimed by one run only, continued by that run, and done when all is there."""

from __future__ import annotations

import json

import pytest

from nabla_eval.errors import DataError
from nabla_eval.harness.arguments import read
from nabla_eval.probing.store import Store
from nabla_eval.runs.command import Evaluation
from nabla_eval.runs.folder import claim, clear, complete, fail, identity_hash, inspect
from nabla_eval.traces.manifest import read_manifest, write_manifest


def manifest(limit=None, **options):
    return Evaluation(("t",), options, read(options), {"limit": limit}).manifest("c")


def stored(folder):
    found = read_manifest(folder)
    assert found is not None
    return found


def test_a_new_folder_is_taken_and_continued_until_it_is_done(tmp_path):
    folder = tmp_path / "run"
    assert claim(folder, manifest(n=4)).state == "new"
    assert (stored(folder)["status"], stored(folder)["continued"]) == ("running", 0)
    assert stored(folder)["config"]["n"] == 4
    assert stored(folder)["config_hash"] == read({"n": 4}).fingerprint
    second = manifest(n=4)
    assert claim(folder, second).state == "unfinished" and second["continued"] == 1
    fail(folder, second, BrokenPipeError("of what the run was printed to"))
    assert stored(folder)["status"] == "running"
    fail(folder, second, RuntimeError("no memory"))
    assert (stored(folder)["status"], stored(folder)["error"]) == ("failed", "no memory")
    assert claim(folder, manifest(n=4)).state == "unfinished"
    write_manifest(folder, {**second, "status": "done"})
    for file, text in WHOLE.items():
        assert inspect(folder, manifest(n=4)).state == "unfinished"  # a file is missing
        (folder / file).write_text(text)
    assert claim(folder, manifest(n=4)).state == "done" == stored(folder)["status"]


def test_another_run_is_refused_with_the_difference(tmp_path):
    claim(tmp_path, manifest(n=4, limit=8))
    (tmp_path / "trace-rank0.jsonl").write_text("{}")
    message = r"limit: 8 there, 16 here; n: 4 there, 2 here\)\. Choose another --output"
    with pytest.raises(DataError, match=message):
        claim(tmp_path, manifest(n=2, limit=16))
    with pytest.raises(DataError, match="method"):
        claim(tmp_path, manifest(method="best_of_n", n=4, limit=8))
    clear(tmp_path)
    assert claim(tmp_path, manifest(n=2)).state == "new"


@pytest.mark.parametrize("status", ["running", "failed", "done"])
def test_a_folder_without_an_answer_is_free_for_another_run(tmp_path, status):
    (tmp_path / "notes.txt").write_text("mine")
    for n, file in enumerate(("trace-rank0.jsonl", "results_2026.json", "samples_t_2026.jsonl")):
        write_manifest(tmp_path, {**manifest(n=4), "status": status, "error": "no such task"})
        (tmp_path / "trace-rank0.jsonl").touch()  # opened before the first answer
        taken = claim(tmp_path, manifest(n=n + 5))
        assert (taken.state, taken.before) == ("new", None)
        assert (stored(tmp_path)["config"]["n"], stored(tmp_path)["error"]) == (n + 5, None)
        (tmp_path / file).write_text("{")  # even a part of one
        with pytest.raises(DataError, match=rf"holds another run \(n: {n + 5} there, 4 here"):
            claim(tmp_path, manifest(n=4))
        (tmp_path / file).unlink()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("held", ["`nabla-eval probe` measured", "the study of a sweep"])
def test_a_folder_of_another_command_is_refused(tmp_path, held):
    if "probe" in held:
        Store(tmp_path, {"n": 4}).add(("id", "hash"), {})
    else:
        (tmp_path / "study.json").write_text("{}")
    write_manifest(tmp_path, manifest(n=4))
    for file in ("run.json", "nothing"):
        with pytest.raises(DataError, match=rf"{held}\. Choose another"):
            claim(tmp_path, manifest(n=2))
        (tmp_path / file).unlink(missing_ok=True)


def test_what_no_answer_depends_on_makes_no_other_run(tmp_path):
    claim(tmp_path, manifest(n=4, device="cpu", batch_size=2))
    assert claim(tmp_path, manifest(n="4", device="cuda", batch_size=64)).state == "unfinished"
    assert identity_hash(manifest(n=4)) == identity_hash(manifest(n="4", device="cpu"))
    assert identity_hash(manifest(n=4)) != identity_hash(manifest(n=4, dtype="float64"))
    assert identity_hash(manifest(limit=8.0)) == identity_hash(manifest(limit=8))


@pytest.mark.parametrize("stray", ["trace-rank0.jsonl", "results_x.json", "samples_t_1.jsonl"])
def test_results_of_no_known_run_are_refused_and_clear_removes_them_only(tmp_path, stray):
    (tmp_path / stray).write_text("")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"no run\.json.* Choose another --output"):
        claim(tmp_path, manifest())
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert claim(tmp_path, manifest()).state == "new"


def test_other_versions_are_noticed(tmp_path):
    old = manifest()
    old["versions"] = {**old["versions"], "torch": "1.0"}
    write_manifest(tmp_path, old)
    changed = claim(tmp_path, manifest()).other_versions
    assert list(changed) == ["torch"] and changed["torch"][0] == "1.0"


RESULTS = {"config": {"nabla": {"seconds": 2.5}}, "configs": {"t": {}}}
WHOLE = {
    "results_2026.json": json.dumps(RESULTS),
    "samples_t_2026.jsonl": "{}\n",
    "trace-rank0.jsonl": "{}\n",
}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("results_2026.json", None, "lm-eval wrote no results to .* Is the disk full"),
        ("results_2026.json", "", r"no whole results to .*2026\.json .* the answers are kept"),
        ("results_2026.json", '{"configs": {}}', "no whole results .* a name that this locale"),
        ("samples_t_2026.jsonl", None, "lm-eval wrote no samples of t to .* Run again"),
        ("trace-rank0.jsonl", None, r"has no trace-rank\*\.jsonl: no response .* Run again"),
    ],
)
def test_a_run_is_done_when_all_its_files_are_there(tmp_path, name, content, said):
    """lm-eval only warns where it cannot write its files."""
    for file, text in {**WHOLE, name: content}.items():
        if text is not None:
            (tmp_path / file).write_text(text)
    claimed = manifest()
    with pytest.raises(DataError, match=said):
        complete(tmp_path, claimed, device="cpu", wall_seconds=1.0)
    (tmp_path / name).write_text(WHOLE[name])
    done = complete(tmp_path, claimed, device="cpu", wall_seconds=1.0)
    assert (done["status"], done["seconds"]) == ("done", 2.5) and stored(tmp_path) == done
