"""Reward models whose gradients point at the right token: preferences, and the term of DESIGN 3.8.

Where a chosen and a rejected response part, the chosen token is right. Beside the preference loss
the model learns that G_v = <d log sigmoid(s(y_<p, e)) / de, e_v>, its prefix score linearised in
the input embedding there, is largest for that token: cross-entropy by double backpropagation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nabla_eval import embedded
from nabla_eval.errors import ConfigError, ModelError
from nabla_eval.models.chat import Framer
from nabla_eval.models.checkpoint import Checkpoint, Trust, examine, parse_device
from nabla_eval.training.data import DataFacts
from nabla_eval.training.folder import Record
from nabla_eval.training.mean_embedding import Point, likely_tokens
from nabla_eval.training.preferences import Parted, part, read, select
from nabla_eval.training.recipe import AlignReward
from nabla_eval.training.run import fit
from nabla_eval.training.setting import adapters
from nabla_eval.training.trainers import Report, require_trl, shared_arguments

METHOD = "align-reward"
_STRICT = Trust()


@dataclass(frozen=True, kw_only=True)
class RewardJob:
    """Which reward model to align, on what, and where the result goes."""

    recipe: AlignReward
    output: Path
    data: str
    reward: str | None = None  # None: the embedded reward model
    policy: str | None = None  # its mean embedding is the linearisation point; None: the rejected
    size: int | None = None
    device: str | None = None
    dtype: str | None = None
    trust: Trust = _STRICT
    resume: bool = False

    @property
    def source(self) -> str:
        """Where the reward model is."""
        return str(embedded.paths()[1]) if self.reward is None else self.reward

    def options(self, method: str) -> dict[str, Any]:
        """What the result depends on: a resumed run must have the same."""
        names = ("policy", "data", "size", "device", "dtype")
        return {
            "method": method,
            "reward": self.reward or "embedded",
            **{name: getattr(self, name) for name in names},
            "recipe": dataclasses.asdict(self.recipe),
        }


@dataclass(frozen=True)
class RewardSetting:
    """A job whose reward model has been examined, but not loaded."""

    job: RewardJob
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype


def run(
    job: RewardJob,
    report: Report = lambda step, steps, figures: None,
    selected: Callable[[DataFacts], None] = lambda facts: None,
) -> Record:
    """Train and save to `job.output`; returns what is written to training.json there.

    Data and options are checked before any weight is read: `DataError`, `ConfigError`,
    `ModelError`. A stopped run goes on from its newest checkpoint with `resume`.
    """
    require_trl()
    setting = _prepare(job)
    pairs, facts = _choose(setting)
    selected(facts)
    return fit(job, METHOD, facts, setting, lambda: _trainer(setting, pairs), report)


def _prepare(job: RewardJob) -> RewardSetting:
    checkpoint = examine(job.trust.source(job.source, "reward", None, {}))
    labels = checkpoint.config.num_labels
    if labels != 1:
        raise ModelError(
            f"The reward model {job.source} gives {labels} numbers per token, and one is needed: a "
            "score. Use a reward model with num_labels=1."
        )
    device = parse_device(job.device)
    small = job.recipe.lora is not None and device.type == "cuda"
    dtype = checkpoint.dtype(job.dtype or ("bfloat16" if small else "float32"))
    return RewardSetting(job, checkpoint, device, dtype)


def _choose(setting: RewardSetting) -> tuple[list[Parted], DataFacts]:
    job, tokenizer = setting.job, setting.checkpoint.tokenizer
    framer = Framer(tokenizer)
    context = getattr(setting.checkpoint.config, "max_position_embeddings", None)
    limit = job.recipe.max_length
    pairs, facts = select(
        job.data,
        read(Path(job.data).expanduser()),
        lambda preference: part(preference, tokenizer, framer),
        seed=job.recipe.seed,
        size=job.size,
        limit=min(limit, context) if isinstance(context, int) else limit,
    )
    if len(pairs) < job.recipe.batch_size:
        raise ConfigError(
            f"batch_size={job.recipe.batch_size} is more than the {len(pairs)} pairs there are. "
            "Try a smaller --batch-size, or more data."
        )
    return pairs, facts


def _trainer(setting: RewardSetting, pairs: Sequence[Parted]) -> Any:
    """TRL's RewardTrainer with the term, over pairs that are tokens already."""
    from datasets import Dataset
    from trl import RewardConfig

    from nabla_eval.training.aligned_trainer import aligned_trainer, collator

    job, tokenizer = setting.job, setting.checkpoint.tokenizer
    points: list[Point] = [((pair.rejected_ids[pair.place],), (1.0,)) for pair in pairs]
    if job.policy is not None:
        points = likely_tokens(job, setting, pairs)
    rows = [
        {
            "chosen_ids": list(pair.chosen_ids),
            "rejected_ids": list(pair.rejected_ids),
            "place": pair.place,
            "right": pair.right,
            "point_ids": list(ids),
            "point_weights": list(weights),
        }
        for pair, (ids, weights) in zip(pairs, points, strict=True)
    ]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Recomputed activations have no second derivative.
    shared: dict[str, Any] = {
        name: False if name.endswith("_checkpointing") else value
        for name, value in shared_arguments(setting).items()
    }
    outcome = setting.checkpoint.kind == "outcome"
    return aligned_trainer(
        job.recipe.alignment_weight,
        # As gradient methods read it: an outcome reward scores a prefix as a closed response.
        Framer(tokenizer)([{"role": "user", "content": "1"}]).after if outcome else (),
        model=setting.checkpoint.load(setting.dtype, torch.device("cpu")),
        args=RewardConfig(**shared, max_length=None),
        data_collator=collator(tokenizer.pad_token_id),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapters(job.recipe.lora, "SEQ_CLS" if outcome else "TOKEN_CLS"),
    )
