"""Bed 2's third factor: the four recipes on Countdown, where a token's worth is hard to know.

Two kinds of wrong tokens of the shipped policy's task. First errors: the first wrong token of its
samples, where it was the policy's first choice; what is right follows from solving the problem.
Results: the result of an equation that is right so far, among K values of a made policy as in bed
1; what is right follows from calculating. Both are of problems that no model was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from countdown_models import (
    WIDTHS,
    Places,
    learned,
    linearised,
    load,
    made_policy,
    places,
    results,
    shipped,
    swapped,
)
from kept import kept_json
from margins import Family, Tried, compare, headline
from pair_tokenizer import EOS_ID
from plain_sampling import sample
from recipe_bed import KINDS
from torch import Tensor
from width_bed import BETAS, decide_all, first_choice, same_place_auc
from width_models import BETA

from nabla_eval.embedded.countdown import problems

DRAWN = {"validation": 300, "test": 800}  # problems, 8 samples each at temperature .7
RESULTS = {
    "validation": 150,
    "test": 350,
}  # problems, one place each; those where the made policy is wrong count
CELLS = (("first errors", 8), *(("results", width) for width in WIDTHS))
LIMITS = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0]
VERIFIED = (0, 2, 3, 4, 6, 8, 12, 16, 24, 32)
STOPS = (-1.0, 0.0, 1.0, 2.0)  # θ of sequential verification, a logit
PLAIN = "plain"
GRADIENTS = (PLAIN, *KINDS)
SETTINGS = [(b, m, None) for b, m in product(BETAS, VERIFIED)]
CONTROLS = ("sequential verify", "exact-k")
TRIED = {
    "sequential verify": [(0.0, m, stop) for m, stop in product(VERIFIED, STOPS) if m],
    "exact-k": [(0.0, m, None) for m in VERIFIED],
    **dict.fromkeys(GRADIENTS, SETTINGS),
}


@dataclass(frozen=True)
class Errors:
    """E wrong tokens, each the policy's first choice; K plausible tokens, all but these -inf."""

    at: Places
    policy: Tensor  # [E, V] log π there
    good: Tensor  # [E, V] whether a token is right
    problem: Tensor  # [E]

    @property
    def wrong(self) -> Tensor:
        """The wrong tokens, [E]."""
        return self.policy.argmax(1)

    @property
    def outside(self) -> float:
        """The share of errors with no right token among the policy's first two."""
        second = self.good.gather(1, self.policy.topk(2).indices).any(1)
        return float((~second).float().mean())


@cache
def drawn(split: str) -> tuple[Places, Tensor]:
    """Return the places of the policy's samples of a split, a prefix once, and their problems."""
    asked = [p for p in problems(DRAWN[split], split) for _ in range(8)]  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(5000 + (split == "test"))
    said = sample(shipped()[0], asked, temperature=0.7, generator=generator)
    closed = [ids if ids[-1] == EOS_ID else [*ids, EOS_ID] for ids in said]
    found = places(shipped()[0], list(zip(asked, closed, strict=True)))
    ids = zip(found.ids.tolist(), found.place.tolist(), found.written.tolist(), strict=True)
    first = {(*row[:place], token): i for i, (row, place, token) in reversed(list(enumerate(ids)))}
    kept = found[torch.tensor(sorted(first.values()))]
    return kept, kept.row // 8


def draw_errors(split: str, where: str, width: int) -> Errors:
    """Return the errors of a split."""
    every, problem = drawn(split)
    if where == "results":
        at = results(every)
        at = at[torch.from_numpy(np.unique(at.row // 8, return_index=True)[1][: RESULTS[split]])]
        generator = torch.Generator().manual_seed(6000 + 2 * width + (split == "test"))
        policy = made_policy(at.right.int().argmax(-1), width, generator)
        owner = at.row // 8
    else:
        at, policy, owner = every, every.policy, problem
        least = policy.topk(width).values[:, -1:]
        policy = policy.masked_fill(policy < least, -torch.inf)
    first = policy.argmax(1)
    bad = ~at.right.gather(1, first[:, None])[:, 0]
    if where != "results":
        bad &= at.written == first
    kept = bad.nonzero()[:, 0]
    return Errors(at[kept], policy[kept], at.right[kept], owner[kept])


def exact_scores(model: Any, errors: Errors, width: int) -> Tensor:
    """Return the scores `[E, V]` of the plausible tokens; -inf elsewhere."""
    tokens = errors.policy.topk(width).indices
    found = [
        swapped(model, errors.at[rows], tokens[rows])
        for rows in torch.arange(len(tokens)).split(16)
    ]
    return torch.full_like(errors.policy, -torch.inf).scatter(1, tokens, torch.cat(found))


def gradient(model: Any, errors: Errors) -> Tensor:
    """Return G `[E, V]` at the policy's mean embedding over the plausible tokens."""
    return linearised(model, replace(errors.at, policy=errors.policy)).detach()


def rankings(errors: Errors, G: Tensor, exact: Tensor) -> dict[str, float]:
    """Return how often a right token comes first, by G and, the wrong one left out, by others."""
    ranked = {"log π + βG": errors.policy + BETA * G, "exact scores": exact}
    others = {name: first_choice(without(errors), values) for name, values in ranked.items()}
    return {"G": first_choice(errors, G), **others}


def without(errors: Errors) -> Errors:
    """Return the errors with the wrong tokens no longer plausible."""
    return replace(errors, policy=errors.policy.scatter(1, errors.wrong[:, None], -torch.inf))


def measure(folder: Path, kind: str, seed: int | None) -> dict[str, Any]:
    """Return what one model does, by split and kind of errors; the plain one is the controls' too.

    Seed None is the shipped model, or the one aligned late from it.
    """
    model = load(folder, kind, seed)
    named = [kind, *CONTROLS] if kind == PLAIN else [kind]
    found: dict[str, Any] = {}
    for split, (where, width) in product(DRAWN, CELLS):
        errors = draw_errors(split, where, width)
        exact, G = exact_scores(model, errors, width), gradient(model, errors)
        decided = {
            name: decide_all(errors, G if name == kind else None, exact, TRIED[name])
            for name in named
        }
        found[f"{split}, {where}, {width}"] = {
            "auc": same_place_auc(errors, exact),
            "first": rankings(errors, G, exact),
            "right": {name: right for name, (right, _) in decided.items()},
            "scored": {name: scored for name, (_, scored) in decided.items()},
        }
    return found


def cell(found: dict[str, list[dict[str, Any]]], where: str, width: int) -> dict[str, Any]:
    """Return the figures of one kind of errors, from what each kind's models measured.

    Kinds may have different numbers of seeds; a margin is over the seeds of its own kind.
    """
    at = {
        split: {k: [m[f"{split}, {where}, {width}"] for m in own] for k, own in found.items()}
        for split in DRAWN
    }
    errors, tests = draw_errors("test", where, width), at["test"]

    def tried(split: str, name: str, seeds: int) -> Tried:
        own = at[split][name if name in GRADIENTS else PLAIN][:seeds]
        right = np.array([c["right"][name] for c in own]).swapaxes(0, 1)
        scored = np.array([c["scored"][name] for c in own]).swapaxes(0, 1)
        calls = scored + (2.0 if name in GRADIENTS else 0.0)
        return Tried(right, calls, calls)

    def lead(kind: str) -> dict[str, Any]:
        names, seeds = (kind, *CONTROLS), len(tests[kind])
        families = {
            name: Family(
                name == kind, "right tokens" in name, [str(s) for s in TRIED[name]],
                tried("validation", name, seeds), tried("test", name, seeds),
            )
            for name in names
        }  # fmt: skip
        return headline(compare(families, errors.problem.numpy(), LIMITS, "calls"))

    auc = {kind: [t["auc"] for t in tests[kind]] for kind in GRADIENTS}
    shipped = {k: own[0] for k, own in tests.items() if k not in GRADIENTS}
    return {
        "where": where, "width": width, "errors": len(errors.at), "outside": errors.outside,
        "problems": len(errors.problem.unique()), "auc": auc,
        "policy": first_choice(without(errors), errors.policy),
        "learned": {
            kind: min(values) >= 0.9 and errors.outside >= 0.4 for kind, values in auc.items()
        },
        "first": {kind: [t["first"] for t in tests[kind]] for kind in GRADIENTS},
        "shipped": {k: {"auc": own["auc"], "first": own["first"]} for k, own in shipped.items()},
        "leads": {kind: lead(kind) for kind in GRADIENTS},
    }  # fmt: skip


def run(folder: Path, seeds: int, joint: int) -> list[dict[str, Any]]:
    """Train, measure and compare; each model and what it measures are kept.

    The joint recipes take most of the time, so they may have fewer seeds.
    """
    torch.set_num_threads(1)
    by = (learned(), CELLS, DRAWN, RESULTS, TRIED)

    def measured(kind: str, seed: int | None) -> dict[str, Any]:
        name = f"measured-{kind}-{'shipped' if seed is None else seed}.json".replace(", ", "-")
        make = partial(measure, folder, kind, seed)
        own: dict[str, Any] = kept_json(folder / name.replace(" ", "-"), by, make)
        return own

    alone = (kind for kind in GRADIENTS if not kind.startswith("joint"))
    found = {f"shipped, {kind}": [measured(kind, None)] for kind in alone}
    for kind in GRADIENTS:
        count = min(joint, seeds) if kind.startswith("joint") else seeds
        found[kind] = [measured(kind, seed) for seed in range(count)]
    return [cell(found, where, width) for where, width in CELLS]
