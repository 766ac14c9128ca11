"""One training run: settle model and data before any weight is read, then train, save, record."""

from __future__ import annotations

import dataclasses
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from nabla_eval import embedded
from nabla_eval.errors import ConfigError, ContextError, DependencyError, suggest
from nabla_eval.models.checkpoint import Checkpoint, Trust, parse_device
from nabla_training.data import COUNTDOWN, DataFacts, Example, identities, open_rows, select
from nabla_training.folder import ADAPTER, CHECKPOINTS, RECORD, TrainRecord, claim, write
from nabla_training.recipe import GRPO, SFT, Recipe
from nabla_training.reward import VERIFIERS, Verifier, reward_function

Report = Callable[[int, int, Mapping[str, float]], None]  # (step, of steps, figures of the step)

FIELD = "{problem}"
_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Model, data and folder of a training run. Everything but `recipe` is by name."""

    recipe: Recipe
    output: Path
    policy: str | None = None  # None: the embedded policy
    data: str = "countdown"
    size: int | None = None
    data_split: str = "train"
    exclude: Sequence[str] = ()
    exclude_split: str = "test"
    verifier: str | None = None  # None: the one that fits the data
    prompt: str | None = None  # None: the verifier's
    chat: bool | None = None  # None: where the policy has a chat template
    device: str | None = None
    dtype: str | None = None
    trust: Trust = field(default_factory=Trust)
    resume: bool = False

    def options(self) -> dict[str, Any]:
        """Return what the result depends on: a resumed run must have the same."""
        own = {"method": self.recipe.method, **dataclasses.asdict(self)}
        for name in ("output", "trust", "resume"):
            del own[name]
        return own | {"policy": self.policy or "embedded", "exclude": list(self.exclude)}


@dataclass(frozen=True)
class Setting:
    """A job whose policy has been examined, but not loaded.

    Prompts must be those of the evaluation: its task's `doc_to_text`, and `--apply_chat_template`.
    """

    job: TrainJob
    checkpoint: Checkpoint
    verifier: Verifier
    text: str  # of the prompt, with {problem} in it
    chat: bool  # whether it goes through the policy's chat template
    device: torch.device
    dtype: torch.dtype

    def prompt(self, problem: str) -> Any:
        """Return a string, or messages where there is a chat template."""
        text = self.text.replace(FIELD, problem)
        return [{"role": "user", "content": text}] if self.chat else text

    def completion(self, solution: str) -> Any:
        """Return the answer in the same form; TRL or the template adds the end token."""
        return [{"role": "assistant", "content": solution}] if self.chat else solution

    def tokens(self, problem: str, solution: str | None = None) -> int:
        """Return the length of the prompt, with a solution and its end token if there is one."""
        tokenizer, text = self.checkpoint.tokenizer, self.prompt(problem)
        if solution is not None:
            text = text + self.completion(solution)
        if self.chat:
            encoded = tokenizer.apply_chat_template(
                text, add_generation_prompt=solution is None, return_dict=True
            )
        else:
            encoded = tokenizer(text if solution is None else text + tokenizer.eos_token)
        return len(encoded["input_ids"])

    def fits(self, example: Example) -> bool:
        """Return whether the policy can take an example.

        SFT leaves out what is longer than `max_length`: TRL would cut it, and the policy would
        learn not to finish. GRPO's prompts must leave room for the answer in the policy's context;
        raises `ContextError` where the answer alone is more than that.
        """
        recipe = self.job.recipe
        context = getattr(self.checkpoint.config, "max_position_embeddings", None)
        limit = context if isinstance(context, int) else sys.maxsize
        if isinstance(recipe, SFT):
            length = self.tokens(example.problem, example.solution)
            return length <= min(limit, recipe.max_length)
        assert isinstance(recipe, GRPO)
        if recipe.max_new_tokens >= limit:
            raise ContextError(
                f"{recipe.max_new_tokens} new tokens do not fit the policy's context of {limit}. "
                f"Try --max-new-tokens {limit // 2}."
            )
        return self.tokens(example.problem) <= limit - recipe.max_new_tokens


def prepare(job: TrainJob) -> Setting:
    """Examine the policy and settle what was left open; no weights are read."""
    name = job.verifier or ("countdown" if job.data in COUNTDOWN else "maths")
    if name not in VERIFIERS:
        raise ConfigError(f"Unknown verifier {name!r}. {suggest(name, VERIFIERS)}")
    verifier = VERIFIERS[name]
    policy = job.policy or str(embedded.paths()[0])
    checkpoint = job.trust.checkpoint(policy, "policy").check()
    tokenizer = checkpoint.tokenizer
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"The tokenizer of {policy} has no end token, so no answer would end. Set one "
            "(tokenizer.eos_token) and save it."
        )
    device = parse_device(job.device)
    # Small updates are lost in bfloat16 weights; adapters are float32 whatever lies under them.
    small = job.recipe.lora and device.type == "cuda"
    dtype = checkpoint.dtype(job.dtype or ("bfloat16" if small else "float32"))
    text = verifier.prompt if job.prompt is None else job.prompt
    if text.count(FIELD) != 1:
        raise ConfigError(
            f"The prompt {text!r} must contain {FIELD} once: the problem goes there. "
            f"Try '{FIELD}\\nThink step by step.'"
        )
    templated = bool(getattr(tokenizer, "chat_template", None))
    if job.chat and not templated:
        raise ConfigError(f"The tokenizer of {policy} has no chat template. Use --no-chat.")
    chat = templated if job.chat is None else job.chat
    return Setting(job, checkpoint, verifier, text, chat, device, dtype)


def choose(setting: Setting) -> tuple[list[Example], DataFacts]:
    """Return the examples to train on, without problems of the evaluation sets that were named.

    Raises `ConfigError` where not even one batch is full: TRL would make no step at all.
    """
    job, recipe = setting.job, setting.job.recipe
    examples, facts = select(
        open_rows(job.data, split=job.data_split, size=job.size, seed=recipe.seed),
        setting.verifier,
        need=recipe.need,
        seed=recipe.seed,
        size=job.size,
        evaluated=identities(job.exclude, setting.verifier, job.exclude_split),
        fits=setting.fits,
    )
    if len(examples) < recipe.batch_size:
        raise ConfigError(
            f"batch_size={recipe.batch_size} is more than the {len(examples)} problems there are. "
            "Try a smaller --batch-size, or more data."
        )
    return examples, facts


def run(
    job: TrainJob,
    report: Report = lambda step, steps, figures: None,
    selected: Callable[[DataFacts], None] = lambda facts: None,
) -> TrainRecord:
    """Train and save to `job.output`; return what is written to training.json there.

    Data and options are checked before any weight is read: `DataError`, `ConfigError`,
    `ModelError`. A run that is stopped goes on from its newest checkpoint with `resume`, and on
    the same machine ends with the same weights as one that was not.
    """
    try:
        versions = {package: version(package) for package in _PACKAGES}
    except ImportError as error:
        raise DependencyError(
            f"Training needs {error.name}, which is not installed. "
            "In a clone of nabla_eval: pip install -e '.[train]'"
        ) from None
    setting = prepare(job)
    examples, facts = choose(setting)
    selected(facts)
    began = time.perf_counter()
    newest = claim(job.output, job.options(), resume=job.resume)
    model = setting.checkpoint.load(setting.dtype, torch.device("cpu"))
    trainer = make_trainer(setting, examples, model)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Progress(report))
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    history = [_numbers(logs) for logs in trainer.state.log_history if "train_runtime" not in logs]
    tenth = max(1, len(history) // 10)
    weights = list(trainer.model.parameters())
    record = TrainRecord(
        schema=1,
        method=job.recipe.method,
        options=job.options(),
        data=facts,
        learning_rate=job.recipe.learning_rate,
        parameters={
            "total": sum(weight.numel() for weight in weights),
            "trained": sum(weight.numel() for weight in weights if weight.requires_grad),
        },
        steps=trainer.state.global_step,
        resumed_from=None if newest is None else int(newest.name.partition("-")[2]),
        seconds=round(time.perf_counter() - began, 1),
        first=_mean(history[:tenth]),
        last=_mean(history[-tenth:]),
        history=history,
        threads=torch.get_num_threads(),
        device=str(setting.device),
        dtype=str(setting.dtype).removeprefix("torch."),
        versions={"python": platform.python_version(), **versions},
    )
    save(trainer, job.output)
    if trainer.is_world_process_zero():
        write(job.output / RECORD, record)  # from now on the run counts as finished
    return record


def save(trainer: Any, output: Path) -> None:
    """Save a checkpoint that loads without peft; adapters are merged, and kept beside it."""
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


class _Progress(TrainerCallback):
    def __init__(self, report: Report) -> None:
        self.report = report

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.report(state.global_step, state.max_steps, {})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "train_runtime" not in logs:  # the summary after the last step
            self.report(state.global_step, state.max_steps, _numbers(logs))


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in entry.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def _mean(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return means of the figures that every entry has."""
    names = set.intersection(*map(set, entries)) if entries else set()
    names -= {"step", "epoch", "num_tokens"}
    return {name: sum(entry[name] for entry in entries) / len(entries) for name in sorted(names)}


# --- TRL ----------------------------------------------------------------------------------------


def make_trainer(setting: Setting, examples: Sequence[Example], model: Any) -> Any:
    """Return TRL's trainer.

    SFT: prompts are context, solutions and their end token carry the loss. GRPO: every optimiser
    step has fresh answers to fresh problems, and the grade is the verifier's: no reward model.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

    recipe, tokenizer = setting.job.recipe, setting.checkpoint.tokenizer
    set_seed(recipe.seed)  # older TRL draws adapters before it sets the seed
    arguments = _arguments(setting)
    rows: list[dict[str, Any]] = [{"prompt": setting.prompt(one.problem)} for one in examples]
    shared = {"model": model, "processing_class": tokenizer, "peft_config": _adapters(recipe)}
    if isinstance(recipe, SFT):
        for row, one in zip(rows, examples, strict=True):
            row["completion"] = setting.completion(one.solution or "")
        return SFTTrainer(
            args=SFTConfig(**arguments, max_length=None, completion_only_loss=True),
            train_dataset=Dataset.from_list(rows),
            **shared,
        )
    assert isinstance(recipe, GRPO)
    for row, one in zip(rows, examples, strict=True):
        row |= {"problem": one.problem, "answer": one.answer}
    args = GRPOConfig(
        **arguments,
        num_generations=recipe.generations,
        max_completion_length=recipe.max_new_tokens,
        temperature=recipe.temperature,
        beta=recipe.beta,
        epsilon=recipe.clip,
        loss_type=recipe.loss,
        scale_rewards=recipe.scale,
    )
    # Before transformers 5 tokenizers also give token types, which policies do not take.
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return GRPOTrainer(
        reward_funcs=reward_function(setting.verifier, tokenizer),
        args=args,
        train_dataset=Dataset.from_list(rows),
        **shared,
    )


def _arguments(setting: Setting) -> dict[str, Any]:
    """Return what the configs of both trainers have in common."""
    recipe, cuda = setting.job.recipe, setting.device.type == "cuda"
    known = {field.name: field.default for field in dataclasses.fields(TrainingArguments)}
    # transformers renamed it; the old name warns where there is the new one.
    names = ("activation_checkpointing", "gradient_checkpointing")
    recompute = next(name for name in names if name in known)
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


def _adapters(recipe: Recipe) -> Any:
    if not recipe.lora:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
