"""Options are checked when they are made, and defaults said to be TRL's are TRL's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from nabla_eval.errors import ConfigError
from nabla_eval.training.recipe import GRPO, SFT, LoRA, Recipe


def default(config: type, name: str) -> Any:
    return next(field.default for field in dataclasses.fields(config) if field.name == name)


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
        (LoRA(), ModelConfig, {"rank": "lora_r", "alpha": "lora_alpha"}),
    ):
        for ours, theirs in names.items():
            assert getattr(options, ours) == default(config, theirs), ours


def test_adapters_learn_faster_unless_told() -> None:
    assert SFT(lora=LoRA()).learning_rate == pytest.approx(2e-4)
    assert GRPO(lora=LoRA()).learning_rate == pytest.approx(1e-5)
    assert GRPO(lora=LoRA(), lr=0.5).learning_rate == 0.5


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SFT, {"epochs": 0}),
        (SFT, {"steps": 0}),
        (SFT, {"lr": -1.0}),
        (SFT, {"lr": float("nan")}),
        (SFT, {"warmup": 1.0}),
        (SFT, {"weight_decay": float("inf")}),
        (SFT, {"batch_size": 0}),
        (SFT, {"save_every": 0}),
        (SFT, {"max_length": 1}),
        (SFT, {"batch_size": 6, "accumulate": 4}),
        (GRPO, {"batch_size": 3, "generations": 3, "accumulate": 6}),
        (GRPO, {"generations": 1}),
        (GRPO, {"temperature": 0.0}),
        (GRPO, {"max_new_tokens": 0}),
        (GRPO, {"beta": -0.1}),
        (GRPO, {"clip": 1.0}),
    ],
)
def test_values_out_of_range_are_named(kind: type[Recipe], options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{list(options)[-1]} must be .*, got "):
        kind(**options)
    with pytest.raises(ConfigError, match="rank must be an integer >= 1, got 0"):
        LoRA(rank=0)
