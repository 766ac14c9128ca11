"""`run.json` survives a round trip, and says what keeps two runs apart."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nabla_eval.errors import DataError
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.options import DTO, fingerprint
from nabla_eval.traces.manifest import FILE, differences, read_manifest, write_manifest

LATER = [
    (Nabla(), "end_token"), (Nabla(), "threshold_inclusive"), (DTO(), "schedule"),
    (DTO(), "optimizer"), (DTO(), "logits_dtype"), (DTO(), "relaxation_temperature"),
]  # fmt: skip


def manifest(**changes):
    base: dict[str, Any] = {
        "schema": 1, "name": "run", "command": "nabla-eval run", "status": "running",
        "tasks": ["t"], "limit": 8, "method": "nabla", "preset": None, "config": {"n": 4},
        "config_hash": "ab", "seed": 0, "model_args": {}, "options": {}, "models": {},
        "versions": {"torch": "2"}, "device": None, "batch_size": 32, "started": "2026-01-01",
        "seconds": None, "wall_seconds": None, "peak_memory": None, "continued": 0, "error": None,
    }  # fmt: skip
    return {**base, **changes}


def test_it_is_read_as_it_was_written(tmp_path):
    assert read_manifest(tmp_path) is None
    write_manifest(tmp_path / "new", manifest(seconds=1.5))
    assert read_manifest(tmp_path / "new") == manifest(seconds=1.5)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FILE]


def test_a_run_from_before_an_option_is_one_without_it(tmp_path):
    older = manifest(config_hash=fingerprint({"n": 4}))
    write_manifest(tmp_path, older)
    found = read_manifest(tmp_path)
    assert found is not None and found["config_hash"] == fingerprint(found["config"])
    now = manifest(config={"n": 4, **{name: getattr(own, name) for own, name in LATER}})
    assert differences(found, now) == []
    now["config"]["schedule"] = "clipped_cosine"
    assert differences(found, now) == ['schedule: "cosine" there, "clipped_cosine" here']


def test_runs_from_before_peaks_were_noted_are_read(tmp_path):
    early = {name: value for name, value in manifest().items() if name != "peak_memory"}
    (tmp_path / FILE).write_text(json.dumps(early))
    assert read_manifest(tmp_path) == manifest()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "has schema 'list'"),
        ("1", "has schema 'int'"),
        (json.dumps({**manifest(), "schema": 2}), "has schema 2"),
        (json.dumps({"schema": 1}), "lacks name"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path, text, words):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match=words):
        read_manifest(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Choose another --output"):
        write_manifest(tmp_path / "file" / "run", manifest())


def test_differences_name_what_answers_depend_on_and_nothing_else():
    other = manifest(
        config={"n": 8, "lr": 0.1}, limit=None, seed=1, model_args={"pretrained": "a/b"},
        name="x", command="y", device="cuda", batch_size=1, versions={}, status="done",
    )  # fmt: skip
    assert differences(manifest(), other) == [
        "limit: 8 there, null here",
        "lr: not set there, 0.1 here",
        "n: 4 there, 8 here",
        'pretrained: not set there, "a/b" here',
        "seed: 0 there, 1 here",
    ]
    assert differences(manifest(limit=8.0), manifest()) == []
