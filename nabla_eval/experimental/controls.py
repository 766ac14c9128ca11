"""Controls of the prefix-guided methods: scores in place of G, and G with its sign flipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nabla_eval.analysis.controls import CONTROLS, alike
from nabla_eval.analysis.runs import Run


def _of_prefix_gradient(run: Run, runs: Sequence[Run]) -> list[tuple[str, Run | None]]:
    """Runs that act below the same confidence come first."""
    beta = run.config.get("beta", 0.0)
    others = [other for other in runs if other is not run and alike(other, run)]
    same = lambda other: other.config.get("confidence") != run.config.get("confidence")  # noqa: E731
    return [
        (role, min((o for o in others if o.method == name), key=same, default=None))
        for role, name in (("exact scores", "exact_top_k"), ("verification", "sequential_verify"))
    ] + [("sign flipped", _same_but(run, others, {"beta": -beta}) if beta > 0 else None)]


def _of_locate_repair(run: Run, runs: Sequence[Run]) -> list[tuple[str, Run | None]]:
    if run.config.get("chooser") != "prefix_gradient":
        return []
    others = [other for other in runs if other is not run and alike(other, run)]
    return [
        (f"chooser {word}", _same_but(run, others, {"chooser": chooser}))
        for word, chooser in (("π", "policy"), ("exact scores", "exact_top_k"))
    ]


def _same_but(run: Run, others: Iterable[Run], changed: Mapping[str, Any]) -> Run | None:
    """The run of the same method whose options differ in nothing else."""
    wanted = {**run.config, **changed}
    return next((o for o in others if o.method == run.method and o.config == wanted), None)


CONTROLS["prefix_gradient"] = _of_prefix_gradient
CONTROLS["locate_repair"] = _of_locate_repair
