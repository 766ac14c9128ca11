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
from nabla_eval.harness.arguments import read
from nabla_eval.harness.lm import NablaLM
from nabla_eval.harness.loading import policy_options
from nabla_eval.harness.preflight import check_command_line
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


@pytest.fixture(params=[0, 1])
def gpus(request, monkeypatch):
    """As many GPUs, and no other accelerator."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    for other in (torch.mps, torch.xpu):
        monkeypatch.setattr(other, "device_count", lambda: 0)
    return request.param


def test_devices_that_are_none_or_that_there_are_not(gpus):
    there = ["cpu", "cpu:0", *(["cuda", "cuda:0"] if gpus else [])]
    seen = r"cuda:0\. Try d=cuda:0\." if gpus else r"no GPU\. Try d=cpu\."
    for name in there:
        assert parse_device(name, "d").type in str(torch.device(name))
    assert str(parse_device("cpu:0")) == "cpu"  # as HFLM knows it
    for name in {"cuda", "cuda:0", "cuda:7", "mps", "xpu", "meta", "cpu:1"} - {*there}:
        with pytest.raises(ConfigError, match=rf"^d={name!r} is not there: torch \S+ sees {seen}"):
            parse_device(name, "d")
    for name in ("cud", "CUDA", "cuda:x", "0", "", 0.5, 2**70):
        with pytest.raises(ConfigError, match=r"is no device\. (Did you mean|Known names: cpu)"):
            parse_device(name, "d")


SWEEP = "tasks: nabla_countdown\nvariants: [{method: greedy}]\ndevice: "


@pytest.mark.parametrize("device", ["cud", "cuda:7", "mps:3"])
@pytest.mark.parametrize(
    "command",
    ["run", "run --dry-run", "run --set device=DEVICE", "run --set reward_device=DEVICE", "probe",
     "demo", "sweep"],
)  # fmt: skip
def test_every_command_refuses_a_device_before_it_writes(tmp_path, device, command):
    words = [*command.replace("DEVICE", device).split(), "--output", str(tmp_path / "out")]
    if words[0] == "sweep":
        words.append(str(file_of(tmp_path, "s.yaml", (SWEEP + device).encode()) / "s.yaml"))
    elif "--set" not in words:
        words += ["--device", device]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and f"device={device!r} is " in result.stderr
    assert "Traceback" not in result.output and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match=f"device={device!r} is "):
        check_command_line(["run", "--model", "nabla", "--tasks", "t", "--device", device])


def test_a_device_for_lm_evals_model_is_one_that_it_knows(monkeypatch):
    """HFLM replaces what it does not know by its default, without a word."""
    for options in ({"device": "cud"}, {"reward_device": "cud"}):
        with pytest.raises(ConfigError, match=r"device='cud' is no device\. Did you mean cuda"):
            NablaLM(**options)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lm_evals_default = {"device": "cuda:0", "batch_size": 2}
    assert str(NablaLM.create_from_arg_obj({}, lm_evals_default).device) == "cpu"
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 1)
    for given, known in (("cpu:0", "cpu"), ("xpu", "xpu:0")):
        assert policy_options(read({"device": given}))["device"] == known


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
