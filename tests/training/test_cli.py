"""`nabla-eval train`: defaults, messages, the screen and what a stopped run is told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nabla_eval.cli.main import main
from nabla_eval.cli.screen import Screen
from nabla_eval.errors import ConfigError
from nabla_eval.models.checkpoint import Trust
from nabla_training import run
from nabla_training.__main__ import show_data, train
from nabla_training.data import DataFacts
from nabla_training.recipe import GRPO, SFT, Recipe
from nabla_training.run import TrainJob


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["train", *arguments])


def test_sft_from_the_command_line(tiny_policy: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["sft", "--policy", str(tiny_policy), "--size", "16", "--steps", "2"]
    arguments += ["--device", "cpu", "--output", str(output)]
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    assert "16 problems of countdown, seed 0" in result.stdout
    assert "SFT, 2 steps in" in result.stdout and "loss " in result.stdout
    assert f"pretrained={output},method=greedy" in result.stdout
    assert "Loading weights" not in result.output  # libraries write to the log
    assert (output / "log.txt").is_file()
    assert json.loads((output / "training.json").read_text())["steps"] == 2
    again = call(*arguments, "--resume")
    assert again.exit_code == 1 and "holds a finished training run" in again.stderr


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> list[TrainJob]:
    """Jobs that would have been run; the run is stopped by hand."""
    jobs: list[TrainJob] = []

    def stop(job: TrainJob, *_: Any) -> None:
        jobs.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", stop)
    return jobs


def test_the_defaults_are_those_of_the_recipes(job: list[TrainJob], tmp_path: Path) -> None:
    result = call("sft", "--output", str(tmp_path))
    assert result.exit_code == 130
    assert "Stopped: nothing was trained; the same command starts over." in result.stderr
    assert job == [TrainJob(recipe=SFT(), output=tmp_path)]
    call("grpo", "--output", str(tmp_path))
    call("grpo", "--output", str(tmp_path), "--data", "numinamath-35k", "--no-chat")
    assert job[1] == TrainJob(recipe=GRPO(max_new_tokens=24), output=tmp_path)
    assert job[2] == TrainJob(recipe=GRPO(), output=tmp_path, data="numinamath-35k", chat=False)


@pytest.mark.parametrize("kind", [SFT, GRPO])
def test_every_option_arrives(kind: type[Recipe], job: list[TrainJob], tmp_path: Path) -> None:
    taken = {field.name for field in dataclasses.fields(kind) + dataclasses.fields(TrainJob)}
    taken = taken - {"recipe", "trust"} | {"trust_remote_code", "allow_pickle"}
    assert {parameter.name for parameter in train.commands[kind.method].params} == taken
    call(
        kind.method, "--data", "d.jsonl", "--exclude", "a", "--exclude", "b", "--output",
        str(tmp_path), "--resume", "--no-chat", "--trust-remote-code", "--seed", "7", "--lr", "0.5",
        "--lora", "--lora-rank", "2", "--schedule", "cosine", "--steps", "5",
    )  # fmt: skip
    recipe = kind(seed=7, lr=0.5, lora=True, lora_rank=2, schedule="cosine", steps=5)
    assert job == [
        TrainJob(
            recipe=recipe, data="d.jsonl", exclude=("a", "b"), output=tmp_path, resume=True,
            chat=False, trust=Trust(trust_remote_code=True),
        )
    ]  # fmt: skip


def test_without_trl_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "_PACKAGES", ("torch", "trl-that-is-absent"))
    result = call("sft", "--output", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "Training needs trl-that-is-absent" in result.stderr
    assert "pip install -e '.[train]'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--lr", "-1"], 1, "lr must be a number > 0 or none, got -1.0"),
        (["--size", "0"], 2, "--size"),
        (["--verifier", "taste"], 2, "taste"),
        (["--data", "[bold]x[/bold].jsonl"], 1, "Cannot read [bold]x[/bold].jsonl"),
    ],
)
def test_errors_are_one_paragraph(
    arguments: list[str], code: int, what: str, tmp_path: Path
) -> None:
    result = call("sft", "--output", str(tmp_path / "out"), *arguments)
    assert result.exit_code == code and what in result.stderr
    assert result.stdout.strip() == ""


def test_what_is_left_out_is_said_and_unchecked_data_are_pointed_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = DataFacts(
        name="rows.jsonl", seed=0, problems=8, fingerprint="", read=9,
        duplicates=0, held_out=0, evaluated=1, unusable=0, too_long=0,
    )  # fmt: skip
    show_data(Screen(), facts, ["evaluated.jsonl"])
    first = capsys.readouterr().out
    assert "8 problems of rows.jsonl, seed 0 (left out: 1 evaluated)" in first
    assert "No evaluation set" not in first
    show_data(Screen(), facts, [])
    assert "No evaluation set was named with --exclude" in capsys.readouterr().out


# --- recipes --------------------------------------------------------------------------------------


def test_defaults_are_trls_own() -> None:
    from trl import GRPOConfig, ModelConfig, SFTConfig

    shared = {
        "learning_rate": "learning_rate", "weight_decay": "weight_decay",
        "schedule": "lr_scheduler_type", "accumulate": "gradient_accumulation_steps",
    }  # fmt: skip
    sft = {"epochs": "num_train_epochs", "batch_size": "per_device_train_batch_size"}
    grpo = {
        "generations": "num_generations", "temperature": "temperature", "beta": "beta",
        "clip": "epsilon", "loss": "loss_type",
    }  # fmt: skip
    for options, config, names in (
        (SFT(), SFTConfig, shared | sft),
        (GRPO(), GRPOConfig, shared | grpo),
        (SFT(), ModelConfig, {"lora_rank": "lora_r", "lora_alpha": "lora_alpha"}),
    ):
        theirs = {field.name: field.default for field in dataclasses.fields(config)}
        assert {ours: getattr(options, ours) for ours in names} == {
            ours: theirs[name] for ours, name in names.items()
        }


def test_adapters_learn_faster_unless_told() -> None:
    assert SFT(lora=True).learning_rate == pytest.approx(2e-4)
    assert GRPO(lora=True).learning_rate == pytest.approx(1e-5)
    assert GRPO(lora=True, lr=0.5).learning_rate == 0.5


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SFT, {"epochs": 0}), (SFT, {"steps": 0}), (SFT, {"lr": -1.0}), (SFT, {"lr": float("nan")}),
        (SFT, {"warmup": 1.0}), (SFT, {"weight_decay": float("inf")}), (SFT, {"batch_size": 0}),
        (SFT, {"save_every": 0}), (SFT, {"max_length": 1}), (SFT, {"lora_rank": 0}),
        (SFT, {"batch_size": 6, "accumulate": 4}), (GRPO, {"generations": 1}),
        (GRPO, {"batch_size": 3, "generations": 3, "accumulate": 6}), (GRPO, {"temperature": 0.0}),
        (GRPO, {"max_new_tokens": 0}), (GRPO, {"beta": -0.1}), (GRPO, {"clip": 1.0}),
    ],
)  # fmt: skip
def test_values_out_of_range_are_named(kind: type[Recipe], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{list(options)[-1]} must be .*, got "):
        kind(**options)
