"""Options of SFT and GRPO. Defaults without a source are TRL's own.

The paper (arXiv 2603.04948) names the data of its two trained rows, 10k of Open-Thoughts and 35k of
NuminaMath, which `data.SUBSETS` holds; of the rest only its limit of new tokens is taken over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from msgspec import Meta

from nabla_eval.options import Options, require
from nabla_eval.validation import Count, NotNegative, Positive, Share

Several: TypeAlias = Annotated[int, Meta(ge=2, le=2**63 - 1)]
Within: TypeAlias = Annotated[float, Meta(gt=0, lt=1)]

# Adapters take a learning rate about ten times that of all weights (TRL's guide to PEFT).
LORA_FACTOR = 10


@dataclass(frozen=True, kw_only=True)
class LoRA(Options):
    """Low-rank adapters on every linear layer but the head; rank and alpha as in TRL's ModelConfig.

    No dropout, so that a resumed run and an uninterrupted one agree.
    """

    rank: Count = 16
    alpha: Count = 32


@dataclass(frozen=True, kw_only=True)
class Recipe(Options):
    """The options of both SFT and GRPO: AdamW with a warm-up and a schedule, in steps or epochs."""

    method: ClassVar[Literal["sft", "grpo"]]
    need: ClassVar[Literal["solution", "answer"]]  # what every example must have
    base_lr: ClassVar[float]  # the learning rate if none is given and all weights are trained

    seed: int = 0
    epochs: Positive = 3.0
    steps: Count | None = None  # optimiser steps, in place of epochs
    lr: Positive | None = None  # None: `base_lr`, times LORA_FACTOR with adapters
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Share = 0.0  # share of the steps
    weight_decay: NotNegative = 0.0
    batch_size: Count = 8  # problems per optimiser step, on each device
    accumulate: Count = 1  # parts in which a batch goes through the model: less memory, same result
    lora: LoRA | None = None
    save_every: Count = 100  # optimiser steps between checkpoints
    keep: Count = 2  # newest checkpoints that stay

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = f"a divisor of the {self.rows} sequences of a batch"
        require(self.rows % self.accumulate == 0, "accumulate", self.accumulate, wanted)

    @property
    def rows(self) -> int:
        """Sequences of a batch on each device."""
        return self.batch_size

    @property
    def learning_rate(self) -> float:
        """The learning rate in use."""
        if self.lr is not None:
            return self.lr
        return self.base_lr * (1 if self.lora is None else LORA_FACTOR)


@dataclass(frozen=True, kw_only=True)
class SFT(Recipe):
    """Supervised fine-tuning: cross-entropy of the solutions' tokens, given the prompts."""

    method = "sft"
    need = "solution"
    base_lr = 2e-5

    max_length: Several = 4096  # tokens of prompt and solution; longer examples are left out


@dataclass(frozen=True, kw_only=True)
class GRPO(Recipe):
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300).

    Each problem is answered several times. An answer's advantage is how much better than its group
    it was graded, in the group's standard deviations.
    """

    method = "grpo"
    need = "answer"
    base_lr = 1e-6

    epochs: Positive = 1.0
    generations: Several = 8  # answers per problem, which are compared with each other
    temperature: Positive = 1.0
    max_new_tokens: Count = 1024  # the paper's limit on MATH-500 and AMC
    beta: NotNegative = 0.0  # weight of KL(policy || start); 0.04 in Shao et al.
    clip: Within = 0.2  # epsilon of the clipped ratio
    # What advantages are divided by: "group" is Shao et al.'s standard deviation of each group,
    # "none" (Dr. GRPO, Liu et al. 2025) keeps groups that hardly differ from counting most.
    scale: Literal["group", "batch", "none"] = "group"
    # How tokens are averaged: "grpo" is Shao et al.'s (by answer), "dapo" TRL's (by token).
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = "dapo"

    @property
    def rows(self) -> int:
        return self.batch_size * self.generations
