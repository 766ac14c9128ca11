"""Lone surrogates: JSON can say them (\\ud800), and neither UTF-8 nor a strict JSON reader can."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hostile import MANIFEST
from run_folders import candidate, record, write_run

from nabla_eval.cli.main import main

LONE = "half \ud800"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run in which others wrote every name and text."""
    models = {"policy": LONE, "policy_hash": "p", "reward": LONE, "reward_hash": "r", LONE: LONE}
    records = [
        record(i, method=LONE, models=models, versions={LONE: LONE}, text=LONE, prompt=LONE,
               config={LONE: LONE}, candidates=[candidate("accepted", text=LONE)])
        for i in range(2)
    ]  # fmt: skip
    home = write_run(tmp_path / "run", records, [1.0, 0.0], preset=LONE)
    facts = {**MANIFEST, "name": LONE, "preset": LONE, "versions": {LONE: LONE}}
    (home / "run.json").write_text(json.dumps(facts))
    return home


@pytest.mark.parametrize(
    ("name", "form"),
    [("accuracy", "rich"), ("accuracy", "markdown"), ("accuracy", "csv"), ("accuracy", "json"),
     ("rejection", "rich"), ("cost", "csv"), ("scaling", "markdown"), ("reward", "json")],
)  # fmt: skip
def test_every_format_prints_and_writes_them(
    run: Path, tmp_path: Path, name: str, form: str
) -> None:
    words = ["report", name, str(run), "--format", form]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    shown = result.stdout_bytes.decode("utf-8")
    assert "half" in shown
    if form == "json":
        assert "\\ud800" not in shown and "half �" in str(json.loads(shown))
    if form == "csv":
        assert list(csv.DictReader(shown.splitlines()))
    if name != "accuracy":  # files are written alike
        return
    file = tmp_path / "out"
    assert CliRunner().invoke(main, [*words, "--output", str(file)]).exit_code == 0
    for path in [file] if file.is_file() else file.iterdir():
        path.read_text(encoding="utf-8")


def test_pages_and_stories_show_them(run: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    commands = [
        ["trace", "list", run],
        ["trace", "show", run, "0"],
        ["trace", "html", run, "-o", out],
    ]
    commands += [["report", "all", run, "--output", out, "--title", LONE]]
    for words in commands:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, (words, result.output)
    for path in Path(out).rglob("*"):
        if path.suffix in (".json", ".csv", ".md", ".html", ".svg"):
            assert "half" in path.read_text(encoding="utf-8") or path.suffix in (".csv", ".svg")
