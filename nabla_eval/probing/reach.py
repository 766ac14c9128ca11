"""Reach: how far can the gradient move a draw, and how far does it?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from operator import ne
from typing import Any

from nabla_eval.analysis.intervals import ratio, share
from nabla_eval.dto.certify import logit_reach
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.options import change, flatten
from nabla_eval.probing.plan import Plan
from nabla_eval.probing.requests import Couple, Coupling
from nabla_eval.probing.room import said
from nabla_eval.protocol import Part, Problem, Refine, Request, Trajectory

RATES = (0.01, 0.03, 0.1, 0.3, 1.0)
STEPS = (5, 20, 80)
TEMPERATURES = (0.5, 1.0, 1.5)
OWN = "as given"


def settings(config: Nabla) -> dict[str, Nabla]:
    """Return the settings that are measured, by name: the given ones, and one option changed."""

    def others() -> Iterator[tuple[str, dict[str, Any]]]:
        for lr in RATES:
            yield f"lr={lr:g}", {"lr": lr, "min_lr": min(config.min_lr, lr)}
        for steps in STEPS:
            yield f"steps={steps}", {"steps": steps}
        for tau in TEMPERATURES:
            yield f"resample_temperature={tau:g}", {"resample_temperature": tau}
        for dtype in ("float32", "bfloat16"):
            if config.optimizer == "adamw":
                yield f"logits_dtype={dtype}", {"logits_dtype": dtype}
        for optimizer in ("adamw", "sgd"):
            if config.logits_dtype == "float32":
                yield f"optimizer={optimizer}", {"optimizer": optimizer}

    changed = {name: change(config, **options) for name, options in others()}
    return {
        OWN: config,
        **{n: own for n, own in changed.items() if flatten(own) != flatten(config)},
    }


def couples(
    problem: Problem, draft: Trajectory, positions: Sequence[int], config: Nabla, draws: int
) -> list[Request]:
    """Return the requests that compare DTO's draws with the twin's at positions of a draft."""
    streams = problem.key / "probe" / "draw"
    return [
        Couple(
            Refine(
                problem,
                draft,
                i,
                tuple(streams / i / k for k in range(draws)),
                config.drawing,
                config.dto,
                config.relaxation,
                config.min_probability,
            )
        )
        for i in positions
    ]


def measure(
    problem: Problem, draft: Trajectory, positions: Sequence[int], config: Nabla, plan: Plan
) -> Part:
    """Return sums over the positions, by setting, and the couplings of the given one."""
    found: dict[str, Any] = {}
    given: list[Coupling] = []
    for name, own in settings(config).items():
        asked: list[Request] = couples(problem, draft, positions, own, plan.draws)
        couplings = (yield asked) if asked else []
        given = couplings if name == OWN else given
        found[name] = {
            "positions": len(couplings),
            "variation": sum(each.variation for each in couplings),
            "draws": sum(len(each.dto) for each in couplings),
            "differ": sum(sum(map(ne, each.dto, each.twin)) for each in couplings),
            "certified": sum(sum(each.certified) for each in couplings),
            "moved": sum(each.moved for each in couplings),
            "farthest": max((each.farthest for each in couplings), default=0.0),
            "flips": sum(each.flips for each in couplings),
        }
    return found, given


def summary(problems: Sequence[Mapping[str, Any]], config: Nabla) -> dict[str, Any]:
    """Return a row a setting: the bound, and what was measured at positions that pass the gate.

    `variation` is the total variation between the refined and the unrefined draw, and
    `variation_bound` tanh(B / 2 tau), which no draw exceeds whose logits moved by B at most.
    """
    rows = []
    for name, own in settings(config).items():
        found = [each["reach"][name] for each in problems if name in each["reach"]]
        column = {key: [each[key] for each in found] for key in found[0]} if found else {}
        if not column:
            continue
        bound, tau = logit_reach(own.dto), own.drawing.temperature
        known = math.isfinite(bound)
        rows.append(
            {
                "setting": name,
                "lr": own.lr,
                "logit_bound": bound if known else None,
                "variation_bound": math.tanh(bound / (2 * tau)) if known else None,
                "variation": said(ratio(column["variation"], column["positions"])),
                "draws_that_differ": said(share(column["differ"], column["draws"])),
                "certified": said(share(column["certified"], column["draws"])),
                "flips": said(ratio(column["flips"], column["positions"])),
                "logits_moved": said(ratio(column["moved"], column["positions"])),
                "farthest": max(column["farthest"]),
            }
        )
    return {"settings": rows}
