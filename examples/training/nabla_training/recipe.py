"""Options of SFT and GRPO. Defaults without a source are TRL's own.

The paper (arXiv 2603.04948) names the data of its two trained rows, 10k of Open-Thoughts and 35k of
NuminaMath, which `data.SUBSETS` holds; of the rest only its limit of new tokens is taken over.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from msgspec import Meta

from nabla_eval.options import Options, require
from nabla_eval.validation import Count, NotNegative, Positive, Share

Several: TypeAlias = Annotated[int, Meta(ge=2, le=2**63 - 1)]
Within: TypeAlias = Annotated[float, Meta(gt=0, lt=1)]

# Adapters take a learning rate about ten times that of all weights (TRL's guide to PEFT).
LORA_FACTOR = 10


def told(default: Any, help: str) -> Any:
    """Declare an option with what `nabla-eval train` says of it."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Recipe(Options):
    """The options of both SFT and GRPO: AdamW with a warm-up and a schedule, in steps or epochs.

    Adapters are on every linear layer but the head, and without dropout, so that a resumed run and
    an uninterrupted one agree.
    """

    method: ClassVar[Literal["sft", "grpo"]]
    need: ClassVar[Literal["solution", "answer"]]  # what every example must have
    base_lr: ClassVar[float]  # the learning rate if none is given and all weights are trained

    seed: int = told(0, "Of data, adapters, order and draws.")
    epochs: Positive = told(3.0, "Passes over the data.")
    steps: Count | None = told(None, "Optimiser steps, in place of epochs.")
    lr: Positive | None = told(None, "Learning rate.  [default: {base_lr:g}; tenfold with --lora]")
    schedule: Literal["linear", "cosine", "constant"] = told("linear", "Of the learning rate.")
    warmup: Share = told(0.0, "Share of the steps.")
    weight_decay: NotNegative = told(0.0, "AdamW's.")
    batch_size: Count = told(8, "Problems per optimiser step and device.")
    accumulate: Count = told(1, "Parts a batch goes through in, to save memory.")
    lora: bool = told(False, "Train low-rank adapters, merged in the end.")
    lora_rank: Count = told(16, "Their rank.")
    lora_alpha: Count = told(32, "Their scale is alpha / rank.")
    save_every: Count = told(100, "Steps between checkpoints.")
    keep: Count = told(2, "Checkpoints that stay.")

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
        return self.base_lr * (LORA_FACTOR if self.lora else 1)


@dataclass(frozen=True, kw_only=True)
class SFT(Recipe):
    """Supervised fine-tuning: cross-entropy of the solutions' tokens, given the prompts."""

    method = "sft"
    need = "solution"
    base_lr = 2e-5

    max_length: Several = told(
        4096, "Tokens of problem and solution; longer examples are left out."
    )


@dataclass(frozen=True, kw_only=True)
class GRPO(Recipe):
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300).

    Each problem is answered several times. An answer's advantage is how much better than its group
    it was graded, in the group's standard deviations.
    """

    method = "grpo"
    need = "answer"
    base_lr = 1e-6

    epochs: Positive = told(1.0, "Passes over the data.")
    generations: Several = told(8, "Answers per problem.")
    temperature: Positive = told(1.0, "Of their sampling.")
    # The paper's limit on MATH-500 and AMC.
    max_new_tokens: Count = told(1024, "Of an answer.  [default: 1024; 24 on Countdown]")
    # 0.04 in Shao et al.
    beta: NotNegative = told(0.0, "Weight of the divergence from the start.")
    clip: Within = told(0.2, "Epsilon of the clipped ratio.")
    # "group" is Shao et al.'s standard deviation of each group, "none" (Dr. GRPO, Liu et al. 2025)
    # keeps groups that hardly differ from counting most.
    scale: Literal["group", "batch", "none"] = told(
        "group", "Standard deviation that advantages are divided by."
    )
    # "grpo" is Shao et al.'s (by answer), "dapo" TRL's (by token).
    loss: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = told("dapo", "How tokens are averaged.")

    @property
    def rows(self) -> int:
        return self.batch_size * self.generations
