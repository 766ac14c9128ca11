"""The setting of a training run: model, data, folder, settled before any weight is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from nabla_eval import embedded
from nabla_eval.errors import ConfigError, ContextError, suggest
from nabla_eval.models.checkpoint import Checkpoint, Trust, examine, parse_device
from nabla_eval.training.data import DataSelection, Need, identities, select
from nabla_eval.training.recipe import Recipe
from nabla_eval.training.reward import VERIFIERS, Verifier
from nabla_eval.training.sources import COUNTDOWN, Example, open_rows

FIELD = "{problem}"
_STRICT = Trust()


@dataclass(frozen=True)
class Prompting:
    """The prompt's text and whether it goes through the policy's chat template.

    Both must be those of the evaluation: its task's `doc_to_text`, and `--apply_chat_template`.
    """

    text: str  # with {problem} in it
    chat: bool

    def __post_init__(self) -> None:
        if self.text.count(FIELD) != 1:
            raise ConfigError(
                f"The prompt {self.text!r} must contain {FIELD} once: the problem goes there. "
                f"Try '{FIELD}\\nThink step by step.'"
            )

    def prompt(self, problem: str) -> Any:
        """A string, or messages where there is a chat template."""
        text = self.text.replace(FIELD, problem)
        return [{"role": "user", "content": text}] if self.chat else text

    def completion(self, solution: str) -> Any:
        """The answer in the same form; TRL (or the template) closes it with the end token."""
        return [{"role": "assistant", "content": solution}] if self.chat else solution

    def tokens(self, tokenizer: Any, example: Example, *, solution: bool) -> int:
        """Length of the prompt, with its solution and end token if asked for."""
        prompt = self.prompt(example.problem)
        answer = self.completion(example.solution or "") if solution else None
        if self.chat:
            messages = prompt if answer is None else prompt + answer
            ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=answer is None, return_dict=True
            )["input_ids"]
            return len(ids)
        text = prompt if answer is None else prompt + answer + tokenizer.eos_token
        return len(tokenizer(text)["input_ids"])


def prompting(text: str, tokenizer: Any, chat: bool | None) -> Prompting:
    """With the chat template where there is one, unless told otherwise."""
    templated = bool(getattr(tokenizer, "chat_template", None))
    if chat and not templated:
        raise ConfigError(
            f"The tokenizer of {tokenizer.name_or_path} has no chat template. Use --no-chat."
        )
    return Prompting(text, templated if chat is None else chat)


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
    trust: Trust = _STRICT
    resume: bool = False

    @property
    def source(self) -> str:
        """Where the policy is."""
        return str(embedded.paths()[0]) if self.policy is None else self.policy

    def options(self, method: str) -> dict[str, Any]:
        """Return what the result depends on: a resumed run must have the same."""
        return {
            "method": method,
            "policy": self.policy or "embedded",
            **{
                name: getattr(self, name)
                for name in ("data", "size", "data_split", "exclude_split", "verifier")
            },
            "exclude": list(self.exclude),
            **{name: getattr(self, name) for name in ("prompt", "chat", "device", "dtype")},
            "recipe": dataclasses.asdict(self.recipe),
        }


@dataclass(frozen=True)
class Setting:
    """A job whose policy has been examined, but not loaded."""

    job: TrainJob
    checkpoint: Checkpoint
    verifier: Verifier
    prompting: Prompting
    device: torch.device
    dtype: torch.dtype

    @property
    def context(self) -> int | None:
        """Most tokens that the policy takes, where its config says so."""
        found = getattr(self.checkpoint.config, "max_position_embeddings", None)
        return found if isinstance(found, int) else None

    @property
    def peft(self) -> Any:
        """LoRA as peft wants it, or None."""
        lora = self.job.recipe.lora
        if lora is None:
            return None
        from peft import LoraConfig

        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )


class Backend(Protocol):
    """The part in which SFT and GRPO differ."""

    @property
    def method(self) -> str:
        """Its name in records."""
        ...

    @property
    def need(self) -> Need:
        """Return what every example must have."""
        ...

    def fits(self, setting: Setting, example: Example) -> bool:
        """Return whether an example is short enough."""
        ...

    def trainer(
        self, setting: Setting, examples: Sequence[Example], model: Any, shared: dict[str, Any]
    ) -> Any:
        """TRL's trainer; `shared` are the arguments of its config that both methods have."""
        ...


def prepare(job: TrainJob) -> Setting:
    """Examine the policy and settle what was left open; no weights are read."""
    name = job.verifier or ("countdown" if job.data in COUNTDOWN else "maths")
    if name not in VERIFIERS:
        raise ConfigError(f"Unknown verifier {name!r}. {suggest(name, VERIFIERS)}")
    verifier = VERIFIERS[name]
    checkpoint = examine(job.trust.source(job.source, "policy", None, {}))
    if checkpoint.tokenizer.eos_token_id is None:
        raise ConfigError(
            f"The tokenizer of {job.source} has no end token, so no answer would end. Set one "
            "(tokenizer.eos_token) and save it."
        )
    device = parse_device(job.device)
    # Small updates are lost in bfloat16 weights; adapters are float32 whatever lies under them.
    small = job.recipe.lora is not None and device.type == "cuda"
    dtype = checkpoint.dtype(job.dtype or ("bfloat16" if small else "float32"))
    text = verifier.prompt if job.prompt is None else job.prompt
    asked = prompting(text, checkpoint.tokenizer, job.chat)
    return Setting(job, checkpoint, verifier, asked, device, dtype)


def choose(setting: Setting, backend: Backend) -> DataSelection:
    """The examples to train on, without the problems of the evaluation sets that were named."""
    job = setting.job
    seed = job.recipe.seed
    rows = open_rows(job.data, split=job.data_split, size=job.size, seed=seed)
    return select(
        rows,
        setting.verifier,
        need=backend.need,
        seed=seed,
        size=job.size,
        evaluated=identities(job.exclude, setting.verifier, job.exclude_split),
        fits=lambda example: backend.fits(setting, example),
    )


def within(setting: Setting, example: Example, *, solution: bool, room: int, limit: int) -> bool:
    """Return whether prompt, solution and `room` more tokens fit `limit` and the context.

    Raises `ContextError` where the room alone is more than the context.
    """
    if setting.context is not None:
        if room >= setting.context:
            raise ContextError(
                f"{room} new tokens do not fit the policy's context of {setting.context}. "
                f"Try --max-new-tokens {setting.context // 2}."
            )
        limit = min(limit, setting.context)
    length = setting.prompting.tokens(setting.checkpoint.tokenizer, example, solution=solution)
    return length + room <= limit
