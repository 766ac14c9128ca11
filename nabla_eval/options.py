"""Options shared by the methods: frozen dataclasses, validated when they are made.

A method's own options are a dataclass beside its generator in `methods/`, made of these blocks.
On the command line they are flat (`--model_args lr=0.1,top_p=0.9`): every leaf has a unique name,
and `build` puts each flat option into the block it belongs to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pkgutil
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from nabla_eval.errors import ConfigError, suggest

T = TypeVar("T")


def require(condition: bool, name: str, got: object, wanted: str) -> None:
    """Raise a `ConfigError` that names the option, what it got and what it takes."""
    if not condition:
        raise ConfigError(f"{name}={got!r} is out of range: it takes {wanted}.")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn: temperature first, then top-k, then top-p, as transformers does."""

    temperature: float = 0.7  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 keeps every token

    def __post_init__(self) -> None:
        require(_finite(self.temperature, 0), "temperature", self.temperature, "a number >= 0")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "a number in (0, 1]")
        require(self.top_k >= 0, "top_k", self.top_k, "an integer >= 0 (0 = every token)")


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How the refined token is drawn; None takes the rollout's own value.

    A draw that repeats the token at hand proposes nothing, so drawing warmer than the rollout pays;
    the floor keeps what the policy finds absurd out of it (measured in `reports/defaults`).
    """

    resample_temperature: float | None = 1.5
    resample_top_p: float | None = None
    resample_top_k: int | None = None
    min_probability: float = 0.01  # tokens that the policy itself gives less are never drawn

    def __post_init__(self) -> None:
        self.of(Sampling())
        require(0 <= self.min_probability < 1, "min_probability", self.min_probability, "[0, 1)")

    def of(self, rollout: Sampling) -> Sampling:
        """The resample distribution's options, given the rollout's."""
        chosen: dict[str, Any] = {
            "temperature": self.resample_temperature,
            "top_p": self.resample_top_p,
            "top_k": self.resample_top_k,
        }
        return dataclasses.replace(
            rollout, **{name: value for name, value in chosen.items() if value is not None}
        )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which positions are worth refining (the paper's section 3.3; DESIGN 3.4, 3.5)."""

    uncertainty: Literal["entropy", "top_probability"] = "entropy"
    entropy_threshold: float = 0.25  # nats; a position needs more
    top_probability_threshold: float = 0.97  # a position needs at most this
    gradient_threshold: float = 0.0  # a position needs more; 0 lets all through
    threshold_inclusive: bool = False  # whether a norm equal to the threshold is enough (released)
    gradient_norm: Literal["logits", "onehot"] = "logits"  # of dL/dz (paper) or dL/dy (released)

    def __post_init__(self) -> None:
        require(
            _finite(self.entropy_threshold, 0),
            "entropy_threshold",
            self.entropy_threshold,
            "nats >= 0",
        )
        top = self.top_probability_threshold
        require(0 < top <= 1, "top_probability_threshold", top, "a number in (0, 1]")
        gradient = self.gradient_threshold
        require(_finite(gradient, 0), "gradient_threshold", gradient, "a number >= 0")

    def steep(self, norm: float) -> bool:
        """Whether a gradient of this norm passes the gate."""
        threshold = self.gradient_threshold
        return norm >= threshold if self.threshold_inclusive else norm > threshold


@dataclass(frozen=True, kw_only=True)
class Objective:
    """L(y) = -lam * r(y|x) - nll_weight * log pi(y|x): Eq. 2 with a weight on each term."""

    lam: float = 1.0  # any sign: 0 and negated rewards are the causal controls
    nll_weight: float = 1e-3  # 1 in the paper, 1e-3 in the released code
    reward_gradient: Literal["final", "process"] = "final"
    process_weight: float = 0.2  # weight of the summed prefix scores when reward_gradient=process

    def __post_init__(self) -> None:
        require(math.isfinite(self.lam), "lam", self.lam, "a finite number, of any sign")
        require(math.isfinite(self.nll_weight), "nll_weight", self.nll_weight, "a finite number")
        weight = self.process_weight
        require(math.isfinite(weight), "process_weight", weight, "a finite number")


OPTIMISERS = sorted(
    module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / "dto/optimisers")])
)


def _is_module(name: str) -> bool:
    """Whether a dotted name is that of a module that can be imported."""
    try:
        return "." in name and find_spec(name) is not None
    except (ImportError, ValueError):
        return False


@dataclass(frozen=True, kw_only=True)
class DTO:
    """Differentiable textual optimisation, Alg. 2, 4 (DESIGN 3.2, 3.3). `steps=0` is the twin."""

    steps: int = 20
    lr: float = 0.01
    min_lr: float = 0.001
    schedule: Literal["cosine", "clipped_cosine"] = "cosine"  # clipped: the released code's
    optimizer: str = "adamw"  # a file of dto/optimisers, or the dotted name of such a module
    logits_dtype: Literal["float32", "bfloat16"] = "float32"  # that z is stepped in, at least
    relaxation_temperature: float | None = None  # tau of the softmax; None: the resample draw's
    update: Literal["first", "all"] = "first"
    anchor: Literal["argmax", "sampled"] = "sampled"
    parameterisation: Literal["logits", "latents"] = "logits"
    grad_cache: bool = True
    objective: Objective = dataclasses.field(default_factory=Objective)

    def __post_init__(self) -> None:
        require(self.steps >= 0, "steps", self.steps, "an integer >= 0 (0 = the zeroth-order twin)")
        require(_finite(self.lr, 0) and self.lr > 0, "lr", self.lr, "a number > 0")
        require(_finite(self.min_lr, 0), "min_lr", self.min_lr, "a number >= 0")
        require(self.min_lr <= self.lr, "min_lr", self.min_lr, f"at most lr={self.lr}")
        if self.optimizer not in OPTIMISERS and not _is_module(self.optimizer):
            raise ConfigError(
                f"optimizer must be one of {', '.join(OPTIMISERS)}, got {self.optimizer!r}. "
                f"{suggest(str(self.optimizer), OPTIMISERS)}"
            )
        good = self.logits_dtype == "float32" or self.optimizer == "adamw"
        require(good, "logits_dtype", self.logits_dtype, f"float32 with optimizer={self.optimizer}")
        tau = self.relaxation_temperature
        good = tau is None or (_finite(tau, 0) and tau > 0)
        require(good, "relaxation_temperature", tau, "a number > 0, or none")


# Options that ∇-Reasoner once had: the value at which they did nothing, and why they went.
# Traces that name them are still read (`traces.schema.complete`).
REMOVED: dict[str, tuple[Any, str]] = {
    "error_below": (None, "positions at the first error gained a point, and the twin as much"),
    "error_window": (..., "it belonged to error_below"),
    "anchor_offset": ("gumbel", "a margin changed accuracy by less than a point"),
    "anchor_margin": (..., "it belonged to anchor_offset=margin"),
    "weight_decay": (0.0, "neither the paper nor the released code decays logits"),
}


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
class Steps:
    """Where a step of a response ends: at a delimiter, which is the step's last part."""

    step: Literal["newline", "blank_line", "semicolon", "regex", "tokens"] = "blank_line"
    step_regex: str | None = None  # of step=regex: a step ends where it first matches
    step_tokens: int = 512  # the longest step; with step=tokens, the length of every step

    def __post_init__(self) -> None:
        require(self.step_tokens >= 1, "step_tokens", self.step_tokens, "an integer >= 1")
        given = self.step_regex is not None
        require(
            given == (self.step == "regex"),
            "step_regex",
            self.step_regex,
            "a regular expression with step=regex, and nothing without",
        )
        if self.step_regex is not None:
            try:
                re.compile(self.step_regex)
            except re.error as error:
                require(False, "step_regex", self.step_regex, f"a regular expression ({error})")

    def complete(self, text: str) -> bool:
        """Whether the text of a step holds its end."""
        if self.step == "tokens":
            return False
        return re.search(self.step_regex or _STEP_ENDS[self.step], text) is not None

    @classmethod
    def parse(cls, text: str) -> Steps:
        """The rule that one word names: `newline`, `blank_line`, `semicolon`, `regex:PATTERN`,
        `tokens:COUNT`; any other text is itself the delimiter, which then ends every step."""
        kind, colon, rest = text.partition(":")
        if text in DELIMITERS:
            return build(cls, {"step": text})
        if colon and kind == "regex":
            return cls(step="regex", step_regex=rest)
        if colon and kind == "tokens":
            return build(cls, {"step": kind, "step_tokens": rest})
        return cls(step="regex", step_regex=re.escape(text) + r"\Z")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a method may spend on a problem; every method has it."""

    max_calls: int | None = None  # model calls of the ledger: tokens + 4 x passes + scorings
    max_item_tokens: int | None = None  # generated tokens of the ledger
    max_item_seconds: float | None = None  # results then depend on the machine and the batch

    def __post_init__(self) -> None:
        for name in ("max_calls", "max_item_tokens"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "an integer >= 1, or none")
        seconds = self.max_item_seconds
        good = seconds is None or (math.isfinite(seconds) and seconds > 0)
        require(good, "max_item_seconds", seconds, "a number > 0, or none")

    @property
    def counts(self) -> bool:
        """Whether what is done too early may be missing later."""
        return self.max_calls is not None or self.max_item_tokens is not None


def _finite(value: float, least: float) -> bool:
    return math.isfinite(value) and value >= least


def leaves(config: type) -> dict[str, dataclasses.Field]:
    """Flat names of a (nested) config class and their fields."""
    hints = typing.get_type_hints(config)
    flat: dict[str, dataclasses.Field] = {}
    for field in dataclasses.fields(config):
        if is_dataclass(hints[field.name]):
            flat.update(leaves(typing.cast(type, hints[field.name])))
        else:
            flat[field.name] = field
    return flat


def build(config: type[T], options: Mapping[str, Any]) -> T:
    """Make a (nested) config from flat options; strings are read as the option's type.

    Raises `ConfigError` for an unknown name (with the closest known ones) or a bad value.
    """
    known = leaves(config)
    for name in options:
        if name not in known:
            raise ConfigError(
                f"Unknown option {name!r} for {config.__name__}. {suggest(name, known)}"
            )
    return _fill(config, options)


def _fill(config: type[T], options: Mapping[str, Any]) -> T:
    hints = typing.get_type_hints(config)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        hint = hints[field.name]
        if is_dataclass(hint):
            values[field.name] = _fill(typing.cast(type, hint), options)
        elif field.name in options:
            values[field.name] = coerce(field.name, options[field.name], hint)
    return config(**values)


def coerce(name: str, value: Any, hint: Any) -> Any:
    """Read one option's value (perhaps a string) as its declared type, or raise `ConfigError`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = typing.get_args(hint)
        if type(None) in parts and (value is None or str(value).lower() == "none"):
            return None
        words = [part for part in parts if typing.get_origin(part) is Literal]
        if any(value in typing.get_args(part) for part in words):
            return value
        hint = next(part for part in parts if part is not type(None) and part not in words)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value in choices:
            return value
        hint_text = suggest(str(value), map(str, choices))
        raise ConfigError(f"{name}={value!r} is not one of {', '.join(choices)}. {hint_text}")
    if hint is bool:
        return _coerce_bool(name, value)
    if hint in (int, float):
        return _coerce_number(name, value, hint)
    return value


def _coerce_bool(name: str, value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if str(value).lower() not in words:
        raise ConfigError(f"{name}={value!r} is neither true nor false. Try {name}=true.")
    return words[str(value).lower()]


def _coerce_number(name: str, value: Any, kind: type) -> int | float:
    kind_name = "an integer" if kind is int else "a number"
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if kind is int and (not math.isfinite(number) or number != int(number)):
            raise ValueError
    except (TypeError, ValueError):
        raise ConfigError(f"{name}={value!r} is not {kind_name}. Try {name}=8.") from None
    return kind(number)


def flatten(config: Any) -> dict[str, Any]:
    """Flat options of a (nested) config, defaults included: what traces and reports store."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        flat.update(flatten(value) if is_dataclass(value) else {field.name: value})
    return flat


def change(config: T, **options: Any) -> T:
    """Copy of a (nested) config with some flat options changed."""
    return build(type(config), {**flatten(config), **options})


def fingerprint(options: Mapping[str, Any]) -> str:
    """Short hash of flat options: equal exactly when the options are."""
    text = json.dumps(dict(options), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
