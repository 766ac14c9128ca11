"""Refusals that no other test comes to: each is provoked once, and its words are checked.

Pipes, devices, folders and loops of links in place of files are refused too, and never waited for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from run_folders import record, write_run
from scripted_server import Script, choice, serving

from nabla_eval import load_pair
from nabla_eval.analysis.folders import read_folder
from nabla_eval.cli.main import main
from nabla_eval.embedded import WEIGHTS
from nabla_eval.embedded.card import read_card, render_card
from nabla_eval.engine.vllm import VLLMRollout
from nabla_eval.engine.vllm_client import Server, ServerOptions
from nabla_eval.errors import ConfigError, DataError, ModelError, ServerError
from nabla_eval.harness.problems.sets import SETS
from nabla_eval.harness.task_files import list_tasks
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.models.checkpoint import parse_device
from nabla_eval.options import build
from nabla_eval.reporting.overview import measure
from nabla_eval.reporting.text import write_files
from nabla_eval.runs.command import compose
from nabla_eval.testing import tiny_pair
from nabla_eval.traces.lock import sole_writer

LATIN = "é".encode("latin-1")  # no UTF-8


def run_with(folder, samples):
    write_run(folder, [record(0)], [1.0])
    (file,) = folder.rglob("samples_*.jsonl")
    file.write_bytes(samples)
    return folder


def file_of(folder, name, content):
    (folder / name).write_bytes(content)
    return folder


def card_with(folder, **changes):
    card = json.loads((WEIGHTS / "card.json").read_text(encoding="utf-8"))
    return file_of(folder, "card.json", json.dumps({**card, **changes}).encode())


def config_of_another_kind(folder):
    compose(["--config", str(file_of(folder, "config.yaml", b"tasks: 3\n") / "config.yaml")])


def model_that_is_a_file(folder):
    load_pair(policy=file_of(folder, "model.safetensors", b"") / "model.safetensors", reward=None)


def server_that_writes_nothing(_):
    with serving(Script(lambda body: choice([], "length"))) as script:
        VLLMRollout(tiny_pair(seed=3).policy, Server(ServerOptions(vllm_url=script.url)))


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda d: read_folder(run_with(d, LATIN)), DataError,
         r"samples_.* cannot be read .*Evaluate again"),
        (lambda d: measure(run_with(d, LATIN)), DataError, "cannot be read .*Evaluate"),
        (lambda d: measure(run_with(d, b"")), DataError, "is empty. Evaluate again"),
        (measure, DataError, r"holds no results_\*\.json\. Finish the run first"),
        (lambda d: read_card(file_of(d, "card.json", b"[")), DataError,
         "cannot be read: .* Install the package, or train"),
        (lambda d: read_card(card_with(d, task=1)), DataError, "train the pair again"),
        (lambda d: render_card(read_card(card_with(d, reward={}))), DataError,
         "The model card lacks a figure: .* Train the pair again"),
        (config_of_another_kind, ConfigError, "tasks must be a string, a list or null, got 3"),
        (lambda d: list_tasks(file_of(d, "task.yaml", LATIN)), DataError,
         r"task\.yaml cannot be read: .* Mend it, or remove it"),
        (lambda d: write_files(file_of(d, "file", b"") / "file", {"page": ""}), DataError,
         r"Cannot write to .*/file: .* Choose another --output"),
        (lambda _: build(Nabla, {"stepz": 1}), ConfigError,
         r"Unknown option 'stepz' for Nabla. Did you mean steps"),
        (model_that_is_a_file, ModelError, r"is a file. Check the path"),
        (server_that_writes_nothing, ServerError, "gave 0 of 8 tokens and ended with 'length'"),
    ],
)  # fmt: skip
def test_what_is_refused_and_in_which_words(tmp_path, call, kind, said):
    with pytest.raises(kind, match=said):
        call(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_there_is_not():
    with pytest.raises(ConfigError, match=r"torch sees no GPU. Try device=cpu"):
        parse_device("cuda")


def test_a_check_of_the_theory_that_there_is_not():
    result = CliRunner().invoke(main, ["theory", "--check", "none"])
    assert result.exit_code != 0 and "none" in result.output


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
