"""When a stored answer is reused: where nothing that it depends on is asked for otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nabla_eval.options import fingerprint, flatten
from nabla_eval.protocol import Problem
from nabla_eval.traces.schema import Record, problem_hash


def unlike(
    record: Record,
    problem: Problem,
    method: str,
    config: Any,
    models: Mapping[str, Any] | None = None,
) -> list[str]:
    """Say in what a record differs from what is asked: `n: 8 there, 4 here`; else empty.

    Compared are the problem, the method and its options, the seed and the models.
    """
    options = flatten(config)
    there = {"method": record["method"], **record["config"], **_named(record["models"])}
    here = {"method": method, **options, **_named(models or {})}
    found = [
        f"{name}: {there.get(name, 'not set')} there, {here.get(name, 'not set')} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    if not found and record["config_hash"] != fingerprint(options):
        found.append("the options")  # of a type that JSON does not tell apart
    if record["id"] != problem.id or record["problem_hash"] != problem_hash(problem):
        found.append("the problem: its prompt, reward affixes, length limit or stop strings")
    if record["key"] != problem.key.digest.hex():
        found.append("the seed")
    return found


def _named(models: Mapping[str, Any]) -> dict[str, Any]:
    return {f"models' {name}": value for name, value in models.items()}
