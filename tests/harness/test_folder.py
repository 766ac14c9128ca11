"""A run folder is taken by one run only, and continued by that run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nabla_eval.errors import DataError
from nabla_eval.harness.arguments import read
from nabla_eval.harness.folder import claim, clear, close, fail, identity_hash, manifest_of
from nabla_eval.traces.manifest import Manifest, read_manifest, write_manifest


def manifest(limit: float | None = None, **options: Any) -> Manifest:
    return manifest_of(read(options), options, ["t"], command="c", limit=limit)


def test_a_new_folder_is_taken_and_continued_until_it_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert claim(folder, manifest(n=4)).state == "new"
    first = read_manifest(folder)
    assert first is not None and (first["status"], first["continued"]) == ("running", 0)
    assert first["config"]["n"] == 4 and first["config_hash"] == read({"n": 4}).fingerprint
    second = manifest(n=4)
    assert claim(folder, second).state == "unfinished" and second["continued"] == 1
    fail(folder, second, BrokenPipeError("of what the run was printed to"))
    still = read_manifest(folder)
    assert still is not None and still["status"] == "running"
    fail(folder, second, RuntimeError("no memory"))
    failed = read_manifest(folder)
    assert failed is not None and (failed["status"], failed["error"]) == ("failed", "no memory")
    assert claim(folder, manifest(n=4)).state == "unfinished"
    write_manifest(folder, {**second, "status": "done"})
    assert claim(folder, manifest(n=4)).state == "done"
    done = read_manifest(folder)
    assert done is not None and done["status"] == "done"


def test_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    claim(tmp_path, manifest(n=4, limit=8))
    message = r"limit: 8 there, 16 here; n: 4 there, 2 here\)\. Choose another --output"
    with pytest.raises(DataError, match=message):
        claim(tmp_path, manifest(n=2, limit=16))
    with pytest.raises(DataError, match="method"):
        claim(tmp_path, manifest(method="best_of_n", n=4, limit=8))
    clear(tmp_path)
    assert claim(tmp_path, manifest(n=2)).state == "new"


def test_what_no_answer_depends_on_makes_no_other_run(tmp_path: Path) -> None:
    claim(tmp_path, manifest(n=4, device="cpu", batch_size=2))
    assert claim(tmp_path, manifest(n="4", device="cuda", batch_size=64)).state == "unfinished"
    assert identity_hash(manifest(n=4)) == identity_hash(manifest(n="4", device="cpu"))
    assert identity_hash(manifest(n=4)) != identity_hash(manifest(n=4, dtype="float64"))
    assert identity_hash(manifest(limit=8.0)) == identity_hash(manifest(limit=8))


@pytest.mark.parametrize("stray", ["trace-rank0.jsonl", "results_x.json", "samples_t_1.jsonl"])
def test_results_of_no_known_run_are_refused_and_clear_removes_them_only(
    tmp_path: Path, stray: str
) -> None:
    (tmp_path / stray).write_text("")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"no run\.json.* Choose another --output"):
        claim(tmp_path, manifest())
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert claim(tmp_path, manifest()).state == "new"


def test_other_versions_are_noticed(tmp_path: Path) -> None:
    old = manifest()
    old["versions"] = {**old["versions"], "torch": "1.0"}
    write_manifest(tmp_path, old)
    changed = claim(tmp_path, manifest()).other_versions
    assert list(changed) == ["torch"] and changed["torch"][0] == "1.0"


def test_a_run_without_lm_evals_files_is_not_done(tmp_path: Path) -> None:
    claim(tmp_path, manifest())
    with pytest.raises(DataError, match="wrote no results"):
        close(tmp_path, manifest(), device="cpu", wall_seconds=1.0)
