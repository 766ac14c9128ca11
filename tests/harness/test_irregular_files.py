"""Pipes, devices, folders and loops of links in place of files: refused, and never waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from run_folders import record, write_run

from nabla_eval.cli.main import main
from nabla_eval.errors import DataError
from nabla_eval.harness.problems.sets import SETS
from nabla_eval.traces.lock import sole_writer

MAKE: dict[str, Callable[[Path], None]] = {
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "loop": lambda path: path.symlink_to(path),
}


@pytest.fixture(params=MAKE)
def irregular(request):
    def put(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        MAKE[request.param](path)
        return path

    return put


def refused(*words, said=""):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert isinstance(result.exception, SystemExit) and result.exit_code, result.output
    assert result.output and "Traceback" not in result.output
    assert said in result.output


def test_files_named_on_the_command_line(irregular, tmp_path):
    file = irregular(tmp_path / "file.jsonl")
    refused("sweep", file, "--dry-run")
    refused("train", "sft", "--data", file, "--output", tmp_path / "out")
    refused("run", "--config", file, "--dry-run")
    refused("run", "--samples", file, "--dry-run")
    refused("check-pair", file, file)
    refused("report", "accuracy", file)


@pytest.mark.parametrize(
    "name", ["run.json", "model/results*", "model/samples*", "trace-rank0.jsonl"]
)
def test_files_of_a_run(irregular, tmp_path, name):
    home = write_run(tmp_path / "run", [record(0)], [1.0])
    irregular(next(iter(home.glob(name)), home / name))
    for words in (["trace", "show", home, "0"], ["report", "accuracy", home]):
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert isinstance(result.exception, SystemExit | None), result.exception
        assert result.exit_code == 0 or result.stderr.startswith(("Error: ", "Warning: "))


@pytest.mark.parametrize(
    "words", [("report", "accuracy"), ("trace", "list"), ("trace", "html", "--output", "page")]
)
def test_a_run_of_another_version_is_refused_by_all_in_the_same_words(tmp_path, words):
    home = write_run(tmp_path / "run", [record(0)], [1.0])
    (home / "run.json").write_text('{"schema": 99, "status": "done", "name": 3}')
    refused(*words, home, said="run.json has schema 99; this version reads 1. Read it with the")


def test_files_of_other_folders(irregular, tmp_path):
    irregular(tmp_path / "pair" / "card.json")
    refused("embedded", "card", tmp_path / "pair")
    irregular(tmp_path / "problems" / SETS["aime24"].file)
    refused("data", "check", tmp_path / "problems")
    irregular(tmp_path / "out" / "options.json")
    refused("train", "sft", "--output", tmp_path / "out", "--resume", "--size", "8")


@pytest.mark.parametrize("chosen", ["no-file", "x" * 500, '{"a": 1}', '{"a": ["x"]}', "[1]"])
def test_documents_that_are_chosen_as_something_else(chosen):
    refused("run", "--samples", chosen, "--dry-run")


def test_a_name_with_a_nul_is_refused_where_writing_begins(tmp_path):
    with pytest.raises(DataError, match="Cannot write"), sole_writer(tmp_path / "a\0b"):
        pass
