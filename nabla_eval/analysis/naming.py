"""Short names for runs: method, n, and what else sets a run apart from the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from nabla_eval.analysis.runs import Run, identity, is_twin

# Without gradient steps these change nothing (the gate still looks at the objective).
IDLE = {
    "lr", "min_lr", "schedule", "optimizer", "update", "parameterisation",
    "grad_cache", "certify",
}  # fmt: skip


def names(runs: Sequence[Run]) -> list[str]:
    """One name per run; runs of one configuration on several tasks share theirs.

    Method, preset and n are always named; another option only where its value is not that of most
    runs of the same method and preset; a model only where the runs have several.
    """
    groups: dict[tuple[str, str | None], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.method, run.preset].append(run)
    usual = {key: _usual([run.config for run in group]) for key, group in groups.items()}
    roles = _differing_models(runs)
    brief = [_name(run, usual[run.method, run.preset], roles, IDLE) for run in runs]
    full = [_name(run, usual[run.method, run.preset], roles, set()) for run in runs]
    owners: dict[str, set[str]] = defaultdict(set)
    for run, name in zip(runs, brief, strict=True):
        owners[name].add(str((run.records[0]["config_hash"], identity(run.models))))
    return [b if len(owners[b]) == 1 else f for b, f in zip(brief, full, strict=True)]


def _usual(configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The value of each option that more than half of the distinct configurations have."""
    distinct = list({str(sorted(config.items())): config for config in configs}.values())
    found = {}
    for option in sorted(set().union(*distinct)):
        values = [config.get(option) for config in distinct]
        if option == "steps":  # twins are named as such
            values = [value for value in values if value != 0] or [0]
        value, count = Counter(map(repr, values)).most_common(1)[0]
        if 2 * count > len(values):
            found[option] = next(v for v in values if repr(v) == value)
        elif None in values:  # an option that is off needs no word
            found[option] = None
    return found


def _name(run: Run, usual: dict[str, Any], roles: Sequence[str], hidden: set[str]) -> str:
    twin = is_twin(run.config)
    parts = [run.method + (" twin" if twin else "")]
    if run.preset is not None and run.preset != "default":
        parts.append(run.preset)
    if "n" in run.config:
        parts.append(f"n={run.config['n']}")
    for option, value in run.config.items():
        if option == "n" or (option == "steps" and twin) or (twin and option in hidden):
            continue
        if option not in usual or usual[option] != value:
            parts.append(f"{option}={word(value)}")
    parts += [f"{role}={model_name(run.models[role])}" for role in roles if role in run.models]
    return " ".join(parts)


def word(value: Any) -> str:
    """An option's value as one writes it in `--model_args`."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def model_name(name: Any) -> str:
    """A hub id as it is, a folder by its last part."""
    text = str(name)
    return PurePath(text).name if PurePath(text).is_absolute() else text


def _differing_models(runs: Sequence[Run]) -> list[str]:
    found = []
    for role in ("policy", "reward", "dtype"):
        values = {str(identity(run.models).get(role)) for run in runs if role in run.models}
        if len(values) > 1:
            found.append(role)
    return found
