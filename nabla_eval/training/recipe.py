"""Options of SFT and GRPO. Defaults without a source are TRL's own.

The paper (arXiv 2603.04948) names the data of its two trained rows, 10k of Open-Thoughts and 35k of
NuminaMath, which `sources.SUBSETS` holds; of the rest only its limit of new tokens is taken over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from nabla_eval.options import require

LORA_FACTOR = 10
"""Adapters take a learning rate about ten times that of all weights (TRL's guide to PEFT)."""


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank adapters on every linear layer but the head; rank and alpha as in TRL's ModelConfig.

    No dropout, so that a resumed run and an uninterrupted one agree.
    """

    rank: int = 16
    alpha: int = 32

    def __post_init__(self) -> None:
        require(self.rank >= 1, "lora_rank", self.rank, "an integer >= 1")
        require(self.alpha >= 1, "lora_alpha", self.alpha, "an integer >= 1")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The options of both SFT and GRPO: AdamW with a warm-up and a schedule, in steps or epochs."""

    seed: int = 0
    epochs: float = 3.0
    steps: int | None = None  # optimiser steps, in place of epochs
    lr: float | None = None  # None: the method's own, times LORA_FACTOR with adapters
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: float = 0.0  # share of the steps
    weight_decay: float = 0.0
    batch_size: int = 8  # problems per optimiser step, on each device
    accumulate: int = 1  # parts in which a batch goes through the model: less memory, same result
    lora: LoRA | None = None
    save_every: int = 100  # optimiser steps between checkpoints
    keep: int = 2  # newest checkpoints that stay

    def __post_init__(self) -> None:
        require(0 < self.epochs < math.inf, "epochs", self.epochs, "a number > 0")
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "an integer >= 1")
        lr = self.lr
        require(lr is None or 0 < lr < math.inf, "lr", lr, "a number > 0")
        require(0 <= self.warmup < 1, "warmup", self.warmup, "a share in [0, 1)")
        require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, ">= 0")
        for name in ("batch_size", "accumulate", "save_every", "keep"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "an integer >= 1")
        require(
            self.rows % self.accumulate == 0,
            "accumulate",
            self.accumulate,
            f"a divisor of the {self.rows} sequences of a batch",
        )

    @property
    def rows(self) -> int:
        """Sequences of a batch on each device."""
        return self.batch_size

    @property
    def base_lr(self) -> float:
        """The learning rate when none is given and all weights are trained."""
        raise NotImplementedError

    @property
    def learning_rate(self) -> float:
        """The learning rate in use."""
        if self.lr is not None:
            return self.lr
        return self.base_lr * (1 if self.lora is None else LORA_FACTOR)


@dataclass(frozen=True, kw_only=True)
class SFT(Recipe):
    """Supervised fine-tuning: cross-entropy of the solutions' tokens, given the prompts."""

    max_length: int = 4096  # tokens of prompt and solution; longer examples are left out, not cut

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.max_length >= 2, "max_length", self.max_length, "an integer >= 2")

    @property
    def base_lr(self) -> float:
        return 2e-5


@dataclass(frozen=True, kw_only=True)
class GRPO(Recipe):
    """Group relative policy optimisation (Shao et al. 2024) on sampled answers and their grades."""

    epochs: float = 1.0
    generations: int = 8  # answers per problem, which are compared with each other
    temperature: float = 1.0
    max_new_tokens: int = 1024  # the paper's limit on MATH-500 and AMC
    beta: float = 0.0  # weight of KL(policy || start); 0.04 in Shao et al.
    clip: float = 0.2  # epsilon of the clipped ratio
    # What advantages are divided by: "group" is Shao et al.'s standard deviation of each group,
    # "none" (Dr. GRPO, Liu et al. 2025) keeps groups that hardly differ from counting most.
    scale: Literal["group", "batch", "none"] = "group"
    # How tokens are averaged: "grpo" is Shao et al.'s (by answer), "dapo" TRL's (by token).
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = "dapo"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.generations >= 2, "generations", self.generations, "an integer >= 2")
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "a number > 0")
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, ">= 1")
        require(0 <= self.beta < math.inf, "beta", self.beta, "a number >= 0")
        require(0 < self.clip < 1, "clip", self.clip, "a number in (0, 1)")

    @property
    def rows(self) -> int:
        return self.batch_size * self.generations

    @property
    def base_lr(self) -> float:
        return 1e-6
