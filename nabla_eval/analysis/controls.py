"""The controls of a run among other runs: its zeroth-order twin, and i.i.d. drafts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from nabla_eval import extensions
from nabla_eval.analysis.runs import Run, identity
from nabla_eval.methods.registry import METHODS, read_only_by
from nabla_eval.outcome import BUDGETS

_SAMPLING = ("temperature", "top_p", "top_k")
# Further controls of a method, each with its role; None where there is no such run.
CONTROLS: dict[str, Callable[[Run, Sequence[Run]], list[tuple[str, Run | None]]]] = {}


def twin_of(run: Run, runs: Iterable[Run]) -> Run | None:
    """The run with the same options but no gradient step (`steps=0`), on the same task and models.

    Options that only the steps read (the learning rate and so on) may differ, and the lookahead.
    None for a method without gradient steps, for a twin itself, and where no such run is there.
    """
    if "steps" not in run.config or run.is_twin:
        return None
    found = [
        other
        for other in runs
        if other.is_twin
        and other.method == run.method
        and alike(other, run)
        and _stripped(other.config) == _stripped(run.config)
    ]
    ahead = run.config.get("lookahead")
    return min(found, key=lambda other: other.config.get("lookahead") != ahead, default=None)


def _stripped(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that change no answer of a run that takes no step."""
    readers = ["steps"] if config.get("gradient_threshold") else ["steps", "gate"]
    gone = {"steps", "lookahead"} | read_only_by(*readers)
    if config.get("logits_dtype") == "bfloat16":  # a twin draws from what was rounded
        gone -= {"parameterisation"}
    return {name: value for name, value in config.items() if name not in gone}


def drafts_of(run: Run, runs: Iterable[Run]) -> Run | None:
    """A best-of-N run without early stop that draws as this run does, with the same N and models.

    One with the same sampling options comes first, then one with others; None without any.
    """
    found = [
        other
        for other in _best_of_n(run, runs)
        if all(len(r) == other.n and None not in r for r in other.answers["draft_rewards"])
    ]
    return min(found, key=lambda other: _sampling(other) != _sampling(run), default=None)


def _best_of_n(run: Run, runs: Iterable[Run]) -> list[Run]:
    """Runs of best-of-N under the reward, with this run's N and models and without a budget."""
    return [
        other
        for other in runs
        if other.method == "best_of_n"
        and other.config.get("evaluator", "reward") in ("auto", "reward")
        and all(other.config.get(name) is None for name in BUDGETS)
        and other.n == run.n
        and alike(other, run)
    ]


def _sampling(run: Run) -> list[Any]:
    return [run.config.get(name) for name in _SAMPLING]


def alike(a: Run, b: Run) -> bool:
    """Return whether two runs answer the same task with the same models."""
    return a.task == b.task and identity(a.models) == identity(b.models)


def is_baseline(run: Run) -> bool:
    """Tell whether a run's method neither revises nor searches: it needs no controls."""
    return run.method in METHODS and METHODS[run.method].baseline


def controls_of(run: Run, runs: Sequence[Run]) -> list[tuple[str, Run]]:
    """Return what a claim about `run` has to stand beside, each with its role.

    Its twin, best-of-N with the same N, best-of-N that stops early, and those of `CONTROLS`.
    Baselines that neither revise nor search have no controls.
    """
    if is_baseline(run):
        return []
    twin, drafts = twin_of(run, runs), drafts_of(run, runs)
    found = [("twin", twin), ("best-of-N", drafts), ("best-of-N, early stop", _stopping(run, runs))]
    own = CONTROLS[run.method](run, runs) if run.method in CONTROLS else []
    return [(role, control) for role, control in [*found, *own] if control is not None]


def _stopping(run: Run, runs: Iterable[Run]) -> Run | None:
    """Best-of-N that stops early, with this run's own threshold where there is a choice."""
    found = [
        other for other in _best_of_n(run, runs) if other.config.get("stop_reward") is not None
    ]
    wanted = run.config.get("stop_reward")
    return min(found, key=lambda other: other.config["stop_reward"] != wanted, default=None)


extensions.load("controls")
