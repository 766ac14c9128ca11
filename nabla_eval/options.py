"""Options of the methods: flat, frozen, validated when they are made.

A method's options are one dataclass beside its generator in `methods/`. It inherits the blocks of
this file that it shares with other methods, so that every option has the name that users type
(`--model_args lr=0.1,top_p=0.9`, `Nabla(lr=0.1, top_p=0.9)`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pkgutil
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from msgspec import ValidationError

from nabla_eval.errors import ConfigError, suggest
from nabla_eval.validation import (
    LEAST,
    Count,
    Factor,
    Index,
    NotNegative,
    Positive,
    Probability,
    Scale,
    Weight,
    as_declared,
    describe,
    shown,
)

T = TypeVar("T")
Block = TypeVar("Block", bound="Options")


def require(condition: bool, name: str, got: object, wanted: str) -> None:
    """Raise a `ConfigError` that names the option, what it takes and what it got."""
    if not condition:
        raise ConfigError(f"{name} must be {wanted}, got {got!r}.")


def check_temperature(name: str, value: float) -> None:
    """Raise `ConfigError` for a temperature at which logits overflow: no softmax of them."""
    require(value == 0 or value >= LEAST, name, value, f"0 or at least {LEAST:g}")


def coerce(name: str, value: Any, kind: Any, default: Any = dataclasses.MISSING) -> Any:
    """Return an option's value, perhaps a string, as its declared type.

    Raises `ConfigError` with what to try: the closest of several words, else the `default`.
    """
    try:
        return as_declared(value, kind)
    except (ValidationError, RecursionError):
        hint = ""
        if isinstance(value, str) and typing.get_origin(kind) is Literal:
            hint = " " + suggest(value, map(str, typing.get_args(kind)))
        elif default is not dataclasses.MISSING:
            word = default if type(default) in (int, float, str) else str(default).lower()
            hint = f" Try {name}={word}."
        raise ConfigError(f"{name} must be {describe(kind)}, got {shown(value)}.{hint}") from None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all options. Making one reads strings as the options' types and checks each value.

    Raises `ConfigError` for a value that an option does not take.
    """

    def __post_init__(self) -> None:
        kinds = _kinds(type(self))  # type: ignore[arg-type]
        for field in dataclasses.fields(self):
            value = coerce(field.name, getattr(self, field.name), kinds[field.name], field.default)
            object.__setattr__(self, field.name, value)

    @property
    def idle(self) -> str | None:
        """Which options leave nothing of the method, and what is left; None if none do."""
        return None

    @property
    def needs_reward(self) -> bool:
        """Return whether the method asks for rewards."""
        return True

    @property
    def needs_chat(self) -> bool:
        """Return whether the method asks the policy in words."""
        return False

    def part(self, block: type[Block]) -> Block:
        """Return the options of one block alone, as requests carry them."""
        return block(**{name: getattr(self, name) for name in leaves(block)})


@cache
def _kinds(options: type) -> dict[str, Any]:
    return typing.get_type_hints(options, include_extras=True)


def read_by(reader: Literal["steps", "gate"], default: Any) -> Any:
    """Declare an option that changes nothing without gradient steps.

    "gate": unless the gradient gate is on, which reads it too.
    """
    return dataclasses.field(default=default, metadata={"reader": reader})


@dataclass(frozen=True, kw_only=True)
class Sampling(Options):
    """How tokens are drawn: temperature first, then top-k, then top-p, as transformers does."""

    temperature: Factor = 0.7  # 0 is greedy
    top_p: Probability = 1.0
    top_k: Index = 0  # 0 keeps every token

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature("temperature", self.temperature)

    @property
    def idle(self) -> str | None:
        if self.temperature > 0 and self.top_k != 1:
            return None
        name = "top_k=1" if self.temperature else "temperature=0"
        return f"{name} makes all samples alike, there is nothing to choose from"

    @property
    def filters(self) -> bool:
        """Whether top-p or top-k leaves tokens out."""
        return self.top_p < 1 or self.top_k > 0

    @cached_property
    def sampling(self) -> Sampling:
        """How responses are drawn."""
        return self.part(Sampling)


@dataclass(frozen=True, kw_only=True)
class Objective(Options):
    """L(y) = -lam * r(y|x) - nll_weight * log pi(y|x): Eq. 2 with a weight on each term."""

    lam: Weight = read_by("gate", 1.0)  # any sign: 0 and negated rewards are the causal controls
    nll_weight: Weight = read_by("gate", 1e-3)  # 1 in the paper, 1e-3 in the released code
    reward_gradient: Literal["final", "process"] = read_by("gate", "final")
    # Weight of the summed prefix scores when reward_gradient=process.
    process_weight: Weight = read_by("gate", 0.2)

    @cached_property
    def objective(self) -> Objective:
        """The loss that is differentiated."""
        return self.part(Objective)


OPTIMISERS = sorted(
    module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / "dto/optimisers")])
)


def _is_module(name: str) -> bool:
    """Tell whether a dotted name is that of a module that can be imported."""
    try:
        return "." in name and find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@dataclass(frozen=True, kw_only=True)
class DTO(Objective):
    """Differentiable textual optimisation, Alg. 2, 4 (DESIGN 3.2, 3.3). `steps=0` is the twin."""

    steps: Index = 20
    lr: Positive = read_by("steps", 0.01)
    min_lr: NotNegative = read_by("steps", 0.001)
    # clipped: the released code's.
    schedule: Literal["cosine", "clipped_cosine"] = read_by("steps", "cosine")
    # A file of dto/optimisers, or the dotted name of such a module.
    optimizer: str = read_by("steps", "adamw")
    logits_dtype: Literal["float32", "bfloat16"] = "float32"  # that z is stepped in, at least
    # tau of the softmax; None: the resample draw's.
    relaxation_temperature: Scale | None = read_by("gate", None)
    update: Literal["first", "all"] = read_by("steps", "first")
    anchor: Literal["argmax", "sampled"] = read_by("gate", "sampled")
    parameterisation: Literal["logits", "latents"] = read_by("steps", "logits")
    grad_cache: bool = read_by("steps", True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.min_lr <= self.lr, "min_lr", self.min_lr, f"at most lr={self.lr}")
        if self.optimizer not in OPTIMISERS and not _is_module(self.optimizer):
            raise ConfigError(
                f"optimizer must be one of {', '.join(OPTIMISERS)}, got {self.optimizer!r}. "
                f"{suggest(str(self.optimizer), OPTIMISERS)}"
            )
        good = self.logits_dtype == "float32" or self.optimizer == "adamw"
        require(good, "logits_dtype", self.logits_dtype, f"float32 with optimizer={self.optimizer}")

    @cached_property
    def dto(self) -> DTO:
        """How logits are refined."""
        return self.part(DTO)


# Options that ∇-Reasoner once had: the value at which they did nothing, and why they went.
# Traces that name them are still read (`traces.schema.complete`).
REMOVED: dict[str, tuple[Any, str]] = {
    "error_below": (None, "positions at the first error gained a point, and the twin as much"),
    "error_window": (..., "it belonged to error_below"),
    "anchor_offset": ("gumbel", "a margin changed accuracy by less than a point"),
    "anchor_margin": (..., "it belonged to anchor_offset=margin"),
    "weight_decay": (0.0, "neither the paper nor the released code decays logits"),
}


# Options that are called otherwise now.
RENAMED = {"aggregate": "step_score", "path_reward": "step_score"}


# What ends a step, by name: command lines do not take line breaks well.
DELIMITERS = {"newline": "\n", "blank_line": "\n\n", "semicolon": ";"}
# Something that is not blank, then the delimiter: there are no empty steps. Anchored at the first
# such character, so that a text without the delimiter is read once and not from each of its places.
_STEP_ENDS = {
    "newline": r"\A\s*\S[^\n]*\n",
    "blank_line": r"\A\s*\S(?s:.*?)\n[^\S\n]*\n",
    "semicolon": r"\A[\s;]*[^\s;][^;]*;",
}


@dataclass(frozen=True, kw_only=True)
class Steps(Options):
    """Where a step of a response ends: at a delimiter, which is the step's last part."""

    step: Literal["newline", "blank_line", "semicolon", "regex", "tokens"] = "blank_line"
    step_regex: str | None = None  # of step=regex: a step ends where it first matches
    step_tokens: Count = 512  # the longest step; with step=tokens, the length of every step

    def __post_init__(self) -> None:
        super().__post_init__()
        good = bool(self.step_regex) if self.step == "regex" else self.step_regex is None
        wanted = "a regular expression with step=regex, and none otherwise"
        require(good, "step_regex", self.step_regex, wanted)
        try:
            re.compile(self.step_regex or "")
        except (re.error, OverflowError, RecursionError) as error:  # a{10**20}; 5,000 brackets
            require(False, "step_regex", self.step_regex, f"a regular expression ({error})")

    @cached_property
    def step_end(self) -> Steps:
        """Where a step ends."""
        return self.part(Steps)

    def complete(self, text: str) -> bool:
        """Tell whether the text of a step holds its end."""
        if self.step == "tokens":
            return False
        return re.search(self.step_regex or _STEP_ENDS[self.step], text) is not None

    @classmethod
    def parse(cls, text: str) -> Steps:
        """Return the rule that one word names.

        `newline`, `blank_line`, `semicolon`, `regex:PATTERN`, `tokens:COUNT`; any other text is
        itself the delimiter, which then ends every step.
        """
        kind, colon, rest = text.partition(":")
        if text in DELIMITERS:
            return build(cls, {"step": text})
        if colon and kind == "regex":
            return cls(step="regex", step_regex=rest)
        if colon and kind == "tokens":
            return build(cls, {"step": kind, "step_tokens": rest})
        return cls(step="regex", step_regex=re.escape(text) + r"\Z")


@dataclass(frozen=True, kw_only=True)
class StepScores(Options):
    """How the scores of a response's steps so far become one value.

    The last, the least, their mean, the product of the probabilities 1 / (1 + exp(-score)), or the
    sum. Lightman et al. (2023) multiply; Snell et al. (2024) take the last.
    """

    step_score: Literal["last", "min", "mean", "prod", "sum"] = "last"


@dataclass(frozen=True, kw_only=True)
class Budget(Options):
    """The calls, tokens and seconds that a method may spend on a problem; every method has it."""

    max_calls: Count | None = None  # model calls of the ledger: tokens + 4 x passes + scorings
    max_item_tokens: Count | None = None  # generated tokens of the ledger
    max_item_seconds: Positive | None = None  # results then depend on the machine and the batch

    @cached_property
    def budget(self) -> Budget:
        """Return what the method may spend."""
        return self.part(Budget)

    @property
    def counts(self) -> bool:
        """Return whether what is done too early may be missing later."""
        return self.max_calls is not None or self.max_item_tokens is not None


@dataclass(frozen=True, kw_only=True)
class Judged(Options):
    """What judges responses. `auto` is the reward model, and `FALLBACK` where there is none."""

    evaluator: str = "auto"

    FALLBACK: ClassVar[str]

    @property
    def needs_reward(self) -> bool:
        return self.evaluator in ("auto", "reward")


def leaves(options: type) -> dict[str, dataclasses.Field]:
    """Return the names of a class's options with their fields."""
    return {field.name: field for field in dataclasses.fields(options)}


def build(options: type[T], given: Mapping[str, Any]) -> T:
    """Make options from a mapping; strings are read as the option's type.

    Raises `ConfigError` for an unknown name (with the closest known ones) or a bad value.
    """
    known = leaves(options)
    for name in given:
        if name not in known:
            raise ConfigError(
                f"Unknown option {name!r} for {options.__name__}. {suggest(name, known)}"
            )
    return options(**given)


def flatten(config: Any) -> dict[str, Any]:
    """Return options as a mapping, defaults included: what traces and reports store."""
    return {name: getattr(config, name) for name in leaves(type(config))}


def change(config: T, **options: Any) -> T:
    """Return a copy of options with some of them changed."""
    return build(type(config), {**flatten(config), **options})


def fingerprint(options: Mapping[str, Any]) -> str:
    """Return a short hash of options: equal exactly when the options are."""
    text = json.dumps(dict(options), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
