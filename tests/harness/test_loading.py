"""Which models NablaLM loads, and which it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import architectures
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nabla_eval import embedded
from nabla_eval.errors import ConfigError, ModelError
from nabla_eval.harness.lm import NablaLM
from nabla_eval.models.checkpoint import Checkpoint


def test_a_pair_without_a_reward_model_serves_methods_that_need_none(double_pair, ask):
    alone = replace(double_pair, reward=None)
    (response,) = NablaLM(pair=alone, method="greedy").generate_until([ask()], disable_tqdm=True)
    assert response.stats["reward"] is None
    with pytest.raises(ModelError, match="reward"):
        NablaLM(pair=alone, method="nabla")


def test_a_reward_model_can_be_named_with_options_of_its_own(policy_folder, ask):
    reward = embedded.paths()[1]
    model = NablaLM(
        pretrained=policy_folder,
        reward=str(reward),
        dtype="float32",
        reward_dtype="float64",
        reward_chat_template="plain",
        device="cpu",
    )
    judge = model.pair.judge
    assert (judge.name, judge.embedding.dtype) == (str(reward), torch.float64)
    assert judge.affixes.plain
    assert model.pair.policy.embedding.dtype == torch.float32
    assert math.isfinite(model.generate_until([ask()], disable_tqdm=True)[0].stats["reward"])


def test_model_arguments_beat_lm_evals_own(policy_folder):
    model = NablaLM.create_from_arg_string(
        f"method=greedy,pretrained={policy_folder},batch_size=5,device=cpu",
        {"batch_size": 1, "device": "cuda:0", "max_batch_size": None},
    )
    assert (model.width, str(model.device), model.pair.reward) == (5, "cpu", None)
    assert model.pair.policy.embedding.dtype == torch.float32


@pytest.mark.parametrize("asked", [{}, {"dtype": "auto"}])
def test_dtype_is_each_checkpoints_own_on_a_cpu_too(asked, tmp_path):
    policy = AutoModelForCausalLM.from_pretrained(embedded.paths()[0], dtype=torch.bfloat16)
    policy.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(embedded.paths()[0]).save_pretrained(tmp_path)
    reward = str(embedded.paths()[1])
    pair = NablaLM(pretrained=str(tmp_path), reward=reward, device="cpu", **asked).pair
    assert pair.policy.embedding.dtype == torch.bfloat16
    assert pair.judge.table.dtype == torch.float32


def test_a_recurrent_policy_answers(tmp_path, ask):
    words = AutoTokenizer.from_pretrained(embedded.paths()[0])
    rows = len(words)
    architectures.architecture("mamba2", rows, torch.float32).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    reward = str(embedded.paths()[1])
    model = NablaLM(pretrained=str(tmp_path), reward=reward, device="cpu", method="best_of_n", n=3)
    responses = model.generate_until([ask(), ask()], disable_tqdm=True)
    assert all(math.isfinite(response.stats["reward"]) for response in responses)


def test_an_error_comes_before_any_model_is_loaded(monkeypatch):
    monkeypatch.setattr(Checkpoint, "check", lambda _: pytest.fail("opened"))
    with pytest.raises(ConfigError, match="steps"):
        NablaLM(stepz=3)
