"""Every method by name: its options, its presets, its generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

from nabla_eval import extensions
from nabla_eval.errors import ConfigError, suggest
from nabla_eval.methods.baselines import (
    BestOfN,
    Greedy,
    SelfConsistency,
    WeightedBestOfN,
    best_of_n,
    greedy,
    self_consistency,
    weighted_best_of_n,
)
from nabla_eval.methods.beam import Beam, beam
from nabla_eval.methods.dvts import Dvts, dvts
from nabla_eval.methods.limit import limited
from nabla_eval.methods.nabla import nabla
from nabla_eval.methods.nabla_options import PRESETS, Nabla
from nabla_eval.methods.particle_filtering import ParticleFiltering, particle_filtering
from nabla_eval.methods.rap import Rap, rap
from nabla_eval.methods.tpo import Tpo, tpo
from nabla_eval.methods.tree_of_thought import TreeOfThought, tree_of_thought
from nabla_eval.options import (
    REMOVED,
    RENAMED,
    Budget,
    Judged,
    Options,
    build,
    change,
    coerce,
    leaves,
)
from nabla_eval.protocol import Method, Problem

Own = TypeVar("Own", bound=Options)


@dataclass(frozen=True)
class MethodSpec:
    """A method as the harness sees it."""

    config: type[Options]
    run: Callable[[Problem, Any], Method]
    summary: str
    samples: bool = True  # draws tokens at random: a task's `do_sample: false` is not for it
    baseline: bool = False  # neither revises nor searches: no claim is made of it, it is a control
    best: bool = True  # its answer is that of its drafts with the highest reward
    # Options under which it does all that it can on a tiny pair, for tests.
    trial: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


# The paper's and the released code's sampling values, for the baselines (DESIGN 3.5). Of searches
# nothing else is known of the paper's runs: the rest stays at their own authors' values.
SAMPLING_PRESETS: dict[str, dict[str, Any]] = {
    name: {key: values[key] for key in ("temperature", "top_p", "top_k") if key in values}
    for name, values in PRESETS.items()
}

_WARM: dict[str, Any] = {"n": 5, "temperature": 1.2}
_AT_C: dict[str, Any] = {"step": "regex", "step_regex": "c", "temperature": 1.2}

METHODS: dict[str, MethodSpec] = {
    "nabla": MethodSpec(
        Nabla, nabla, "∇-Reasoner: gradient descent on token logits (steps=0: its twin)",
        trial={**_WARM, "passes": 3, "lr": 0.3, "steps": 5}, presets=PRESETS,
    ),
    "greedy": MethodSpec(
        Greedy, greedy, "the most likely token, always", samples=False, baseline=True,
        presets={name: {} for name in PRESETS},
    ),
    "self_consistency": MethodSpec(
        SelfConsistency, self_consistency, "majority over n sampled answers", baseline=True,
        best=False, trial=_WARM, presets=SAMPLING_PRESETS,
    ),
    "best_of_n": MethodSpec(
        BestOfN, best_of_n, "the best of n samples under the reward model", baseline=True,
        trial=_WARM, presets=SAMPLING_PRESETS,
    ),
    "weighted_best_of_n": MethodSpec(
        WeightedBestOfN, weighted_best_of_n, "the answer whose samples have the most reward",
        best=False, trial=_WARM, presets=SAMPLING_PRESETS,
    ),
    "beam": MethodSpec(
        Beam, beam, "step-level beam search under the reward model",
        trial={**_AT_C, "width": 3}, presets=SAMPLING_PRESETS,
    ),
    "dvts": MethodSpec(
        Dvts, dvts, "diverse verifier tree search: independent greedy searches over steps",
        trial={**_AT_C, "width": 3}, presets=SAMPLING_PRESETS,
    ),
    "particle_filtering": MethodSpec(
        ParticleFiltering, particle_filtering, "partial responses resampled by their reward",
        best=False, trial={**_AT_C, "particles": 4}, presets=SAMPLING_PRESETS,
    ),
    "tree_of_thought": MethodSpec(
        TreeOfThought, tree_of_thought, "breadth-first search over judged steps",
        trial={**_AT_C, "breadth": 2, "proposals": 2, "depth": 4},
        presets=SAMPLING_PRESETS,
    ),
    "rap": MethodSpec(
        Rap, rap, "Monte Carlo tree search over steps", best=False,
        trial={**_AT_C, "iterations": 4, "branching": 2, "depth": 3}, presets=SAMPLING_PRESETS,
    ),
    "tpo": MethodSpec(
        Tpo, tpo, "revision by the policy's own critique of the best and the worst response",
        trial={"temperature": 1.0, "top_p": 1.0, "iterations": 2, "reply_tokens": 40},
        presets={
            **SAMPLING_PRESETS,
            "paper": {**SAMPLING_PRESETS["paper"], "samples": 2, "iterations": 2},
        },
    ),
}  # fmt: skip


def spec(method: str) -> MethodSpec:
    """Look a method up by name, or by the module (`my_package.second`) whose `METHOD` it is.

    Raises `ConfigError` for an unknown method, and for a module that has none.
    """
    method = coerce("method", method, str, "nabla")
    if method not in METHODS and "." in method:
        METHODS[method] = _elsewhere(method)
    if method not in METHODS:
        raise ConfigError(f"Unknown method {method!r}. {suggest(method, METHODS)}")
    return METHODS[method]


def _elsewhere(module: str) -> MethodSpec:
    try:
        found = getattr(import_module(module), "METHOD", None)
    except (ImportError, TypeError) as error:  # a name such as ..x
        raise ConfigError(
            f"method={module} names a module that cannot be imported: {error}. Is the name right, "
            f"and the folder that contains {module.partition('.')[0]} in PYTHONPATH?"
        ) from error
    if not isinstance(found, MethodSpec):
        raise ConfigError(
            f"{module} has no METHOD. Try METHOD = MethodSpec(Options, function, summary)."
        )
    return found


def read_only_by(*readers: str) -> set[str]:
    """Return the options that change nothing without these (`options.read_by`)."""
    return {
        name
        for entry in METHODS.values()
        for name, option in leaves(entry.config).items()
        if option.metadata.get("reader") in readers
    }


def option_names(method: str) -> tuple[str, ...]:
    """Flat names of a method's options."""
    return tuple(leaves(spec(method).config))


def configure(method: str, options: Mapping[str, Any], preset: str | None = None) -> Any:
    """Validated options of a method: defaults, then the preset's values, then `options`.

    Raises `ConfigError` for an unknown method, preset or option, or a value out of range.
    """
    entry = spec(method)
    values: dict[str, Any] = {}
    if preset is not None and preset != "default":
        if not isinstance(preset, str) or preset not in entry.presets:
            closest = suggest(str(preset), ["default", *entry.presets])
            raise ConfigError(f"Unknown preset {preset!r} for {method}. {closest}")
        values.update(entry.presets[preset])
    known_names = leaves(entry.config)
    for name in options:
        if name not in known_names:
            if method == "nabla":
                refuse_removed(name)
            known = suggest(RENAMED.get(name, name), known_names)
            raise ConfigError(f"Method {method} has no option {name!r}. {known}")
    return build(entry.config, {**values, **options})


def refuse_removed(name: str) -> None:
    """Raise `ConfigError` for an option that ∇-Reasoner once had."""
    if name in REMOVED:
        raise ConfigError(
            f"∇-Reasoner's option {name!r} was removed: {REMOVED[name][1]}. Leave it out."
        )


def settle(config: Own, rewarded: bool) -> Own:
    """The options with `evaluator=auto` decided by whether there is a reward model."""
    if not isinstance(config, Judged) or config.evaluator != "auto":
        return config
    return change(config, evaluator="reward" if rewarded else config.FALLBACK)


def start(problem: Problem, config: Any) -> Method:
    """The generator of the method whose options `config` is, cut off at its budgets."""
    run = next((entry.run for entry in METHODS.values() if type(config) is entry.config), None)
    if run is None:
        raise ConfigError(
            f"{type(config).__name__} is not the options class of a registered method. Use "
            "configure(method, options)."
        )
    method = run(problem, config)
    return method if config.budget == Budget() else limited(method, config.budget)


extensions.load("methods")
