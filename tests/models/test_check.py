"""check-pair: what it accepts and refuses without weights, and its memory arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_builders as build
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from transformers import AutoConfig

from nabla_eval.cli.check_pair import check_pair as command
from nabla_eval.models.check import PairReport, PairUse, check_pair

Make = Callable[..., Path]
OUTCOME = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
QWEN_REWARD = {"architectures": ["Qwen3ForSequenceClassification"], **OUTCOME}
LLAMA_REWARD = {"architectures": ["LlamaForSequenceClassification"], **OUTCOME}


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def findings(result: Result, verdict: str) -> dict[str, str]:
    found = json.loads(result.stdout)["findings"]
    return {finding["name"]: finding["text"] for finding in found if finding["verdict"] == verdict}


def test_real_families_are_accepted(real_folder: Make) -> None:
    policy, reward = real_folder(build.QWEN25), real_folder(build.QWEN3, **QWEN_REWARD)
    result = run(policy, reward, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["ok"] and report["vocabulary"]["kind"] == "shared"
    assert "151665 of the policy's 151665 tokens" in findings(result, "ok")["vocabulary"]
    skipped = {"weights of the policy", "weights of the reward model"}
    assert findings(result, "skipped").keys() == skipped
    weights = report["memory"]["models"]["policy"][0]
    assert weights["bytes"] == 2 * 7_615_616_512  # Qwen2.5-7B's published 7.62 billion, bfloat16
    result = run(real_folder(build.LLAMA), real_folder(build.LLAMA, **LLAMA_REWARD), "--json")
    assert result.exit_code == 0, result.output
    assert "<|eot_id|> 128009" in findings(result, "ok")["end of response"]
    assert "trimmed" in findings(result, "warning")["template"] or "merge" in result.output


def test_qwen_with_a_llama_reward_is_refused_with_the_overlap(real_folder: Make) -> None:
    policy, reward = real_folder(build.QWEN25), real_folder(build.LLAMA, **LLAMA_REWARD)
    result = run(policy, reward, "--json")
    assert result.exit_code == 1
    told = findings(result, "failed")["vocabulary"]
    assert "109566 of the policy's 151665 tokens" in told and "overlap 72.2 %" in told
    forced = run(policy, reward, "--vocab", "force", "--json")
    assert forced.exit_code == 0
    assert "'12'" in findings(forced, "warning")["tokenisation"], "Llama 3 joins digits"


@pytest.mark.parametrize(
    ("policy", "reward", "options"),
    [(build.QWEN25, build.QWEN3, QWEN_REWARD), (build.LLAMA, build.LLAMA, LLAMA_REWARD)],
)
def test_tiny_models_on_real_configs_are_loaded_and_tested(
    real_folder: Make, policy: str, reward: str, options: dict[str, Any]
) -> None:
    folders = [real_folder(policy, **build.TINY, layer_types=None),
               real_folder(reward, **build.TINY, **options, layer_types=None)]  # fmt: skip
    for folder, auto in zip(folders, (build.AUTO["policy"], build.AUTO["outcome"]), strict=True):
        config = AutoConfig.from_pretrained(folder)
        weights = auto.from_config(config, dtype=torch.float32).state_dict()
        if config.tie_word_embeddings:
            weights.pop("lm_head.weight", None)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    result = run(*folders, "--load", "--dtype", "float32", "--json")
    assert result.exit_code == 0, result.output
    assert "base and head add up" in findings(result, "ok")["loading"]
    assert not findings(result, "skipped")


def test_pairs_are_printed_with_a_verdict(checkpoints: Make) -> None:
    policy, reward = checkpoints("policy"), checkpoints("process")
    result = run(policy, reward, "--length", 64, "--load")
    assert result.exit_code == 0, result.output
    assert "base and head add up" in result.output and "can work" in result.output
    result = run(policy, policy, "--length", 64)
    assert result.exit_code == 1
    assert "Qwen2ForCausalLM" in result.output and "cannot work" in result.output
    assert "[red]x" in run("/no/[red]x", "/no/y").output  # markup is printed as it is


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--length", "513"], "context of the policy"),
        (["--length", "64", "--step-delimiter", "zz"], "steps"),
        (["--length", "64", "--reward-chat-template", "{{ messages[0].content }}"], "template"),
        (["--length", "64", "--load"], "loading"),
    ],
)
def test_what_cannot_work_gives_exit_code_1(
    checkpoints: Make, options: list[str], name: str
) -> None:
    policy, reward = checkpoints("policy"), checkpoints("process")
    if name == "loading":  # finds what config and tokenizer cannot show
        (reward / "model.safetensors").write_bytes(b"")
        assert run(policy, reward, *options[:2]).exit_code == 0
    result = run(policy, reward, *options, "--json")
    assert result.exit_code == 1
    assert name in findings(result, "failed")


def test_faults_of_both_sides_are_reported(checkpoints: Make) -> None:
    labels = checkpoints("outcome", num_labels=3)
    failed = findings(run("/no/such/policy", labels, "--length", 64, "--json"), "failed")
    assert "does not exist" in failed["policy"] and "has 3 labels" in failed["score"]


def test_memory_grows_with_what_is_asked_and_counts_in_each_models_dtype(checkpoints: Make) -> None:
    policy = checkpoints("policy", dtype=torch.bfloat16)
    names = str(policy), str(checkpoints("process", dtype=torch.float32))

    def report(**asked: Any) -> PairReport:
        return check_pair(*names, PairUse(length=64, **asked))

    for asked, sizes in (
        ({}, [2, 4]),
        ({"dtype": "float64"}, [8, 8]),
        ({"dtype": "float64", "reward_dtype": "bf16"}, [8, 2]),
    ):
        weights = [part.terms[0].arithmetic for _, part in report(**asked).memory]
        assert [text.split(" × ")[1] for text in weights] == [f"{size} bytes" for size in sizes]
    one, two, four = (report(batch=count, dtype="float32") for count in (1, 2, 4))
    assert one.bytes < two.bytes < four.bytes < 2 * two.bytes  # weights are there once
    assert one.bytes < report(dtype="float64").bytes
