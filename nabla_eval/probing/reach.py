"""Reach: how far can the gradient move a draw, and how far does it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import ne
from typing import Any

from pandas import DataFrame

from nabla_eval.analysis.intervals import mean_probability, ratio, share
from nabla_eval.dto.certify import logit_reach
from nabla_eval.methods.nabla_options import Nabla, uncertain
from nabla_eval.options import change, flatten
from nabla_eval.probing.plan import Plan
from nabla_eval.probing.requests import Couple, Coupling
from nabla_eval.protocol import Differentiate, Part, Problem, Refine, Request, Trajectory

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
STEPS = (5, 20, 80)
TEMPERATURES = (0.5, 1.0, 1.5)
OWN = "as given"


def settings(config: Nabla) -> dict[str, Nabla]:
    """Return the settings that are measured, by name: the given ones, and one option changed."""
    others: list[dict[str, Any]] = [
        *({"lr": lr, "min_lr": min(config.min_lr, lr)} for lr in RATES),
        *({"steps": steps} for steps in STEPS),
        *({"resample_temperature": tau} for tau in TEMPERATURES),
    ]
    if config.optimizer == "adamw":
        others += [{"logits_dtype": dtype} for dtype in ("float32", "bfloat16")]
    if config.logits_dtype == "float32":
        others += [{"optimizer": optimizer} for optimizer in ("adamw", "sgd")]
    changed = {_named(options): change(config, **options) for options in others}
    return {OWN: config} | {n: own for n, own in changed.items() if flatten(own) != flatten(config)}


def _named(options: Mapping[str, Any]) -> str:
    name, value = next(iter(options.items()))
    return f"{name}={value if isinstance(value, str) else format(value, 'g')}"


def refined(problem: Problem, draft: Trajectory, config: Nabla) -> Part:
    """Return the positions of a draft that pass both gates, as `methods.nabla` asks for them."""
    unsure = uncertain(draft, config)
    if not config.gradient_threshold:
        return unsure
    found = yield [
        Differentiate(
            problem, draft, i, config.dto, rows=tuple(unsure),
            norm=config.gradient_norm, temperature=config.relaxation,
        )
        for i in unsure
    ]  # fmt: skip
    return [i for i, own in zip(unsure, found, strict=True) if config.steep(own.norms[i])]


def couples(
    problem: Problem, draft: Trajectory, positions: Sequence[int], config: Nabla, draws: int
) -> list[Request]:
    """Return the requests that compare DTO's draws with the twin's at positions of a draft."""
    streams = problem.key / "probe" / "draw"
    keys = {i: tuple(streams / i / k for k in range(draws)) for i in positions}
    rest = config.drawing, config.dto, config.relaxation, config.min_probability
    return [
        Couple(Refine(problem, draft, i, own, *rest, certify=config.certifies))
        for i, own in keys.items()
    ]


def measure(
    problem: Problem, draft: Trajectory, positions: Sequence[int], config: Nabla, plan: Plan
) -> Part:
    """Return sums over the positions, by setting, and the couplings of the given one."""
    asked = {
        name: couples(problem, draft, positions, own, plan.draws)
        for name, own in settings(config).items()
    }
    answers = iter((yield [each for own in asked.values() for each in own]) if positions else ())
    couplings = {name: [next(answers) for _ in own] for name, own in asked.items()}
    return {name: _sums(own) for name, own in couplings.items()}, couplings[OWN]


def _sums(couplings: Sequence[Coupling]) -> dict[str, Any]:
    return {
        "positions": len(couplings),
        "draws": sum(len(each.dto) for each in couplings),
        "differ": sum(sum(map(ne, each.dto, each.twin)) for each in couplings),
        "certified": sum(sum(each.certified) for each in couplings),
        "farthest": max((each.farthest for each in couplings), default=0.0),
        **{n: sum(getattr(own, n) for own in couplings) for n in ("variation", "moved", "flips")},
    }


def summary(problems: Sequence[Mapping[str, Any]], config: Nabla) -> dict[str, Any]:
    """Return a row a setting: the bound, and what was measured at positions that pass the gate.

    `variation` is the total variation between the refined and the unrefined draw, and
    `variation_bound` tanh(B / 2 tau), which no draw exceeds whose logits moved by B at most. With
    top-p or top-k nothing bounds it: a small step may change which tokens are kept.
    """
    rows = []
    for name, own in settings(config).items():
        column = DataFrame([each["reach"][name] for each in problems])
        bound, tau = logit_reach(own.dto), own.drawing.temperature
        known = math.isfinite(bound)
        bounded = known and not own.drawing.filters
        rows.append(
            {
                "setting": name,
                "lr": own.lr,
                "logit_bound": bound if known else None,
                "variation_bound": math.tanh(bound / (2 * tau)) if bounded else None,
                "variation": mean_probability(column["variation"], column["positions"]),
                "draws_that_differ": share(column["differ"], column["draws"]),
                "certified": share(column["certified"], column["draws"]),
                "flips": ratio(column["flips"], column["positions"]),
                "logits_moved": mean_probability(column["moved"], column["positions"]),
                "farthest": float(column["farthest"].max()),
            }
        )
    return {"settings": rows}
