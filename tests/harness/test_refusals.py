"""Errors that no other test comes to: each is provoked once, and its words are checked."""

from __future__ import annotations

import json
from types import SimpleNamespace

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
from nabla_eval.engine.completions import Server, ServerOptions
from nabla_eval.engine.vllm import VLLMRollout
from nabla_eval.errors import ConfigError, DataError, ModelError, ServerError
from nabla_eval.harness.tasks import list_tasks
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.methods.registry import configure, start
from nabla_eval.models.checkpoint import parse_device
from nabla_eval.options import build
from nabla_eval.reporting.accuracy import compare_report
from nabla_eval.reporting.overview import measure
from nabla_eval.runs.command import compose
from nabla_eval.testing import tiny_pair, tiny_problems

LATIN = "é".encode("latin-1")  # no UTF-8


# --- files of a run -----------------------------------------------------------------------------


def test_samples_that_are_no_text(tmp_path):
    write_run(tmp_path, [record(0)], [1.0])
    (file,) = tmp_path.rglob("samples_*.jsonl")
    file.write_bytes(LATIN)
    with pytest.raises(DataError, match=r"samples_.* cannot be read .*Evaluate again"):
        read_folder(tmp_path)


def test_a_run_that_is_not_finished_cannot_be_measured(tmp_path):
    with pytest.raises(DataError, match=r"holds no results_\*\.json\. Finish the run first"):
        measure(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty. Evaluate again"), (LATIN, "cannot be read .*Evaluate")]
)
def test_samples_that_cannot_be_measured(tmp_path, content, said):
    write_run(tmp_path, [record(0)], [1.0])
    (file,) = tmp_path.rglob("samples_*.jsonl")
    file.write_bytes(content)
    with pytest.raises(DataError, match=said):
        measure(tmp_path)


def test_runs_of_different_tasks_cannot_be_compared():
    one, other = SimpleNamespace(task="a", name="x"), SimpleNamespace(task="b", name="y")
    with pytest.raises(DataError, match="no task in common"):
        compare_report([one], [other])


# --- files that users write ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "call", "said"),
    [
        (lambda card: b"[", read_card, "cannot be read: .* Install the package or train again"),
        (lambda card: json.dumps({**card, "task": 1}).encode(), read_card, "Train the pair again"),
        (
            lambda card: json.dumps({**card, "reward": {}}).encode(),
            lambda folder: render_card(read_card(folder)),
            "The model card lacks a figure: .* Train the pair again",
        ),
    ],
)
def test_model_cards_that_are_none(tmp_path, change, call, said):
    card = json.loads((WEIGHTS / "card.json").read_text(encoding="utf-8"))
    (tmp_path / "card.json").write_bytes(change(card))
    with pytest.raises(DataError, match=said):
        call(tmp_path)


def test_a_config_of_lm_eval_with_values_of_another_kind(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("tasks: 3\n")
    with pytest.raises(ConfigError, match="tasks must be a string, a list or null, got 3"):
        compose(["--config", str(file)])


def test_a_task_file_that_is_no_text(tmp_path):
    (tmp_path / "task.yaml").write_bytes(LATIN)
    with pytest.raises(DataError, match=r"task\.yaml cannot be read: .* Mend it, or remove it"):
        list_tasks(tmp_path)


def test_a_prompt_that_is_no_text(tmp_path):
    (tmp_path / "tpo_loss.txt").write_bytes(LATIN)
    with pytest.raises(ConfigError, match=r"tpo_loss\.txt cannot be read: .* Save it as UTF-8"):
        configure("tpo", {"prompts": str(tmp_path)})


# --- folders that cannot be written -------------------------------------------------------------


def test_what_cannot_be_written(tmp_path):
    from nabla_eval.reporting.text import write_files

    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DataError, match=r"Cannot write to .*/file: .* Choose another --output"):
        write_files(file, {"page": ""})


def test_a_sweep_whose_summary_cannot_be_replaced(tmp_path):
    from nabla_eval.runs.sweep import FILE, Sweep
    from nabla_eval.runs.sweep_file import read_sweep

    file = tmp_path / "sweep.yaml"
    file.write_text("tasks: nabla_countdown\ngrid: {method: [greedy]}\n")
    (tmp_path / "out" / FILE / "inside").mkdir(parents=True)
    sweep = Sweep(read_sweep(file), tmp_path / "out", "nabla-eval sweep")
    with pytest.raises(DataError, match=r"Cannot write .*study\.json: .* Choose another --output"):
        sweep.save()


# --- options and models -------------------------------------------------------------------------


def test_options_and_classes_that_there_are_not():
    with pytest.raises(ConfigError, match=r"Unknown option 'stepz' for Nabla. Did you mean steps"):
        build(Nabla, {"stepz": 1})
    problem = tiny_problems(tiny_pair(seed=3), 1)[0]
    with pytest.raises(ConfigError, match="dict is not the options class of a registered method"):
        start(problem, {})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_there_is_not():
    with pytest.raises(ConfigError, match=r"torch sees no GPU. Try device=cpu"):
        parse_device("cuda")


def test_a_model_that_is_a_file(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_text("")
    with pytest.raises(ModelError, match=r"is a file. Give the folder that holds it"):
        load_pair(policy=file, reward=None)


def test_a_check_of_the_theory_that_there_is_not():
    result = CliRunner().invoke(main, ["theory", "--check", "none"])
    assert result.exit_code != 0 and "none" in result.output


# --- what models and servers say ----------------------------------------------------------------


def test_a_server_that_writes_nothing():
    pair = tiny_pair(seed=3)
    with (
        serving(Script(lambda body: choice([], "length"))) as script,
        pytest.raises(ServerError, match=r"wrote nothing after .* Look at its log"),
    ):
        VLLMRollout(pair.policy, Server(ServerOptions(vllm_url=script.url)))
