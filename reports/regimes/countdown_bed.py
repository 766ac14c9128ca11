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
from margins import Family, Tried, compare
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
PLAIN = "not aligned"
GRADIENTS = (PLAIN, *KINDS)
SETTINGS = [(b, m, None) for b, m in product(BETAS, VERIFIED)]
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


def measure_seed(folder: Path, seed: int | None) -> dict[str, Any]:
    """Return what one seed's models do, by cell and split; None: the shipped one and late ones."""
    names = [k for k in GRADIENTS if seed is not None or not k.startswith("joint")]
    models = {k: load(folder, "plain" if k == PLAIN else k, seed) for k in names}
    found: dict[str, Any] = {}
    for split, (where, width) in product(DRAWN, CELLS):
        errors = draw_errors(split, where, width)
        exact = {kind: exact_scores(model, errors, width) for kind, model in models.items()}
        G = {kind: gradient(model, errors) for kind, model in models.items()}
        decided = {
            name: decide_all(errors, G.get(name), exact.get(name, exact[PLAIN]), tried)
            for name, tried in TRIED.items()
            if name not in GRADIENTS or name in models
        }
        found[f"{split}, {where}, {width}"] = {
            "auc": {kind: same_place_auc(errors, values) for kind, values in exact.items()},
            "first": {k: rankings(errors, G[k], exact[k]) for k in models},
            "right": {name: right for name, (right, _) in decided.items()},
            "scored": {name: scored for name, (_, scored) in decided.items()},
        }
    return found


def cell(
    seeds: list[dict[str, Any]], late: dict[str, Any], where: str, width: int
) -> dict[str, Any]:
    """Return the figures of one kind of errors."""

    def tried(split: str, name: str) -> Tried:
        cells = [seed[f"{split}, {where}, {width}"] for seed in seeds]
        right = np.array([c["right"][name] for c in cells]).swapaxes(0, 1)
        scored = np.array([c["scored"][name] for c in cells]).swapaxes(0, 1)
        calls = scored + (2.0 if name in GRADIENTS else 0.0)
        return Tried(right, calls, calls)

    families = {
        name: Family(
            name in GRADIENTS, "right tokens" in name, [str(s) for s in TRIED[name]],
            tried("validation", name), tried("test", name),
        )
        for name in TRIED
    }  # fmt: skip
    errors = draw_errors("test", where, width)
    tests = [seed[f"test, {where}, {width}"] for seed in seeds]
    alone = late[f"test, {where}, {width}"]
    auc = {kind: [t["auc"][kind] for t in tests] for kind in GRADIENTS}
    return {
        "where": where, "width": width, "errors": len(errors.at), "outside": errors.outside,
        "problems": len(errors.problem.unique()), "auc": auc,
        "policy": first_choice(without(errors), errors.policy),
        "learned": {
            kind: min(values) >= 0.9 and errors.outside >= 0.4 for kind, values in auc.items()
        },
        "first": {kind: [t["first"][kind] for t in tests] for kind in GRADIENTS},
        "shipped": {"auc": alone["auc"], "first": alone["first"]},
        "calls": compare(families, errors.problem.numpy(), LIMITS, "calls"),
    }  # fmt: skip


def run(folder: Path, seeds: int) -> list[dict[str, Any]]:
    """Train, measure and compare; each model and each seed's measurements are kept."""
    torch.set_num_threads(1)
    by = (learned(), CELLS, DRAWN, RESULTS, TRIED)

    def measured(seed: int | None) -> dict[str, Any]:
        name = f"measured-{'shipped' if seed is None else seed}.json"
        found: dict[str, Any] = kept_json(folder / name, by, partial(measure_seed, folder, seed))
        return found

    late = measured(None)
    found = [measured(seed) for seed in range(seeds)]
    return [cell(found, late, where, width) for where, width in CELLS]
