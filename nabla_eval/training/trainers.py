"""TRL's trainers as this project uses them: SFT, GRPO, quiet progress, plain checkpoints.

GRPO (Shao et al. 2024, arXiv 2402.03300) answers each problem several times; an answer's advantage
is how much better than its group it was graded, in the group's standard deviations. The grade is
the verifiable reward of `reward`: that of the evaluation, and no reward model.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from nabla_eval.errors import DependencyError
from nabla_eval.training.data import Need
from nabla_eval.training.folder import ADAPTER, CHECKPOINTS
from nabla_eval.training.recipe import GRPO, SFT
from nabla_eval.training.reward import reward_function
from nabla_eval.training.setting import Setting, within
from nabla_eval.training.sources import Example

Report = Callable[[int, int, Mapping[str, float]], None]  # (step, of steps, figures of the step)


def require_trl() -> None:
    """Raise `DependencyError` where TRL or peft is missing."""
    for package in ("trl", "peft"):
        try:
            version(package)
        except ImportError:
            raise DependencyError(
                f"Training needs {package}, which is not installed. "
                "In a clone of nabla_eval: pip install -e '.[train]'"
            ) from None


def shared_arguments(setting: Setting) -> dict[str, Any]:
    """Arguments that the configs of TRL's trainers have in common."""
    from transformers import TrainingArguments

    recipe, cuda = setting.job.recipe, setting.device.type == "cuda"
    known = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    # transformers renamed it; the old name warns where there is the new one.
    recompute = next(
        name for name in ("activation_checkpointing", "gradient_checkpointing") if name in known
    )
    # As a share of the steps it has a name of its own before transformers 5.
    warmup = "warmup_ratio" if known.get("warmup_ratio") == 0.0 else "warmup_steps"
    return {
        "output_dir": str(setting.job.output / CHECKPOINTS),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.steps or -1,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule,
        warmup: recipe.warmup,
        "weight_decay": recipe.weight_decay,
        "per_device_train_batch_size": recipe.rows // recipe.accumulate,
        "gradient_accumulation_steps": recipe.accumulate,
        "save_strategy": "steps",
        "save_steps": recipe.save_every,
        "save_total_limit": recipe.keep,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "bf16": cuda and torch.cuda.is_bf16_supported(),
        recompute: cuda,
    }


class SupervisedFineTuning:
    """The backend of `SFT`: prompts are context, solutions and their end token carry the loss."""

    method: Final = "sft"
    need: Final[Need] = "solution"

    def __init__(self, recipe: SFT) -> None:
        self.recipe = recipe

    def fits(self, setting: Setting, example: Example) -> bool:
        """Return whether prompt and solution are at most `max_length` tokens together.

        TRL would cut them: the policy would learn not to finish.
        """
        return within(setting, example, solution=True, room=0, limit=self.recipe.max_length)

    def trainer(
        self, setting: Setting, examples: Sequence[Example], model: Any, shared: dict[str, Any]
    ) -> Any:
        """TRL's SFTTrainer over prompts and completions."""
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        asked = setting.prompting
        rows = [
            {
                "prompt": asked.prompt(example.problem),
                "completion": asked.completion(example.solution or ""),
            }
            for example in examples
        ]
        return SFTTrainer(
            model=model,
            args=SFTConfig(**shared, max_length=None, completion_only_loss=True),
            train_dataset=Dataset.from_list(rows),
            processing_class=setting.checkpoint.tokenizer,
            peft_config=setting.peft,
        )


class GroupRelativePolicyOptimisation:
    """The backend of `GRPO`."""

    method: Final = "grpo"
    need: Final[Need] = "answer"

    def __init__(self, recipe: GRPO) -> None:
        self.recipe = recipe

    def fits(self, setting: Setting, example: Example) -> bool:
        """Return whether the prompt leaves room for the answer in the policy's context."""
        room = self.recipe.max_new_tokens
        return within(setting, example, solution=False, room=room, limit=sys.maxsize)

    def trainer(
        self, setting: Setting, examples: Sequence[Example], model: Any, shared: dict[str, Any]
    ) -> Any:
        """TRL's GRPOTrainer; every optimiser step has fresh answers to fresh problems."""
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        recipe = self.recipe
        rows = [
            {
                "prompt": setting.prompting.prompt(example.problem),
                "problem": example.problem,
                "answer": example.answer,
            }
            for example in examples
        ]
        args = GRPOConfig(
            **shared,
            num_generations=recipe.generations,
            max_completion_length=recipe.max_new_tokens,
            temperature=recipe.temperature,
            beta=recipe.beta,
            epsilon=recipe.clip,
            loss_type=recipe.loss,
            scale_rewards=recipe.scale,
        )
        tokenizer = setting.checkpoint.tokenizer
        # Before transformers 5 tokenizers also give token types, which policies do not take.
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        return GRPOTrainer(
            model=model,
            reward_funcs=reward_function(setting.verifier, tokenizer),
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=setting.peft,
        )


def silence(trainer: Any, report: Report) -> None:
    """Our progress in place of transformers' printed logs."""
    from transformers import PrinterCallback, TrainerCallback

    class TrainingProgress(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            report(state.global_step, state.max_steps, {})

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            figures = _numbers(logs or {})
            if "train_runtime" not in figures:  # the summary after the last step
                report(state.global_step, state.max_steps, figures)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(TrainingProgress())


def save(trainer: Any, output: Path) -> None:
    """A checkpoint that loads without peft; adapters are merged, and kept beside it."""
    if not hasattr(trainer.model, "merge_and_unload"):
        trainer.save_model(str(output))
    else:
        trainer.save_model(str(output / ADAPTER))
        if trainer.is_world_process_zero():
            model = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
            model.save_pretrained(output)
            trainer.processing_class.save_pretrained(output)
    for path in (output, output / ADAPTER):
        (path / "training_args.bin").unlink(missing_ok=True)  # a pickle; training.json says it


def parameters(model: Any) -> dict[str, int]:
    """How many weights there are, and how many of them were trained."""
    weights = list(model.parameters())
    return {
        "total": sum(weight.numel() for weight in weights),
        "trained": sum(weight.numel() for weight in weights if weight.requires_grad),
    }


def history(logs: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The figures of every step."""
    return [_numbers(entry) for entry in logs if "train_runtime" not in entry]


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in entry.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def mean(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of the figures that every entry has."""
    names = set.intersection(*(set(entry) for entry in entries)) if entries else set()
    names -= {"step", "epoch", "num_tokens"}
    return {name: sum(entry[name] for entry in entries) / len(entries) for name in sorted(names)}
