"""Bed 2, recipe: what makes an aligned gradient a better chooser than its controls?

Two factors on bed 1's task: the gradient is aligned jointly with the scores, or on a converged
reward model; towards right tokens, or towards the model's own exact scores, which need none. The
third factor of the question, Countdown in place of a task of facts, is in `countdown_bed.py`.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept import kept_json, kept_model
from margins import Family, Tried, compare
from tiny_reward import HEAD_WEIGHTS, WEIGHTS, TinyReward
from width_bed import (
    BETAS,
    DRAWN,
    LIMITS,
    VERIFIED,
    clusters,
    decide_all,
    draw_errors,
    draw_split,
    exact_scores,
    first_choice,
    gradient,
    same_place_auc,
)
from width_models import load, train
from width_models import recipe as learned

WIDTHS = (8, 32)
LATE = 150  # steps of alignment after convergence
KINDS = ("joint, right tokens", "joint, own scores", "late, right tokens", "late, own scores")
SETTINGS = [(b, m, None) for b, m in product(BETAS, VERIFIED)]
VERIFYING = [(0.0, m, 0.0) for m in VERIFIED if m]
CALLS = {"sequential verify": 0.0, "exact-k": 0.0} | dict.fromkeys(KINDS, 2.0)


def aligned(folder: Path, models: Path, kind: str, seed: int) -> TinyReward:
    """Return an aligned reward model, trained now if it was not yet."""
    recipe, target = kind.split(", ")
    gold = target == "right tokens"
    if recipe == "joint" and gold:
        return load(models, "aligned", seed)
    model = TinyReward(seed)
    if recipe == "late":
        model.load_state_dict(load(models, "plain", seed).state_dict())
    steps = {"steps": LATE} if recipe == "late" else {}
    path = folder / f"{recipe}-{'gold' if gold else 'self'}-{seed}.pt"
    by = (learned(), LATE)
    kept_model(path, by, model, lambda: train(model, "aligned", seed, gold=gold, **steps))
    return model


def measure_seed(folder: Path, models: Path, seed: int) -> dict[str, Any]:
    """Return what one seed's models do, by split, width and family."""
    plain = load(models, "plain", seed)
    by_kind = {kind: aligned(folder, models, kind, seed) for kind in KINDS}
    found: dict[str, Any] = {}
    for split in DRAWN:
        drawn = draw_split(split)
        scores = {name: exact_scores(m, drawn) for name, m in {"plain": plain, **by_kind}.items()}
        for width in WIDTHS:
            errors = draw_errors(split, width)
            exact = {name: values[errors.kept] for name, values in scores.items()}
            G = {kind: gradient(model, errors, "soft") for kind, model in by_kind.items()}
            results = {
                "sequential verify": decide_all(errors, None, exact["plain"], VERIFYING),
                "exact-k": decide_all(errors, None, exact["plain"], SETTINGS),
                **{k: decide_all(errors, G[k], exact[k], SETTINGS) for k in KINDS},
            }
            found[f"{split}-{width}"] = {
                "auc": {name: same_place_auc(errors, values) for name, values in exact.items()},
                "first": {kind: first_choice(errors, G[kind]) for kind in KINDS},
                "right": {name: right for name, (right, _) in results.items()},
                "scored": {name: scored for name, (_, scored) in results.items()},
            }
    return found


def cell(seeds: list[dict[str, Any]], width: int) -> dict[str, Any]:
    """Return the figures of one width."""

    def tried(split: str, name: str) -> Tried:
        cells = [seed[f"{split}-{width}"] for seed in seeds]
        right = np.array([c["right"][name] for c in cells]).swapaxes(0, 1)
        scored = np.array([c["scored"][name] for c in cells]).swapaxes(0, 1)
        extra = 4 * WEIGHTS + 2 * HEAD_WEIGHTS if name in KINDS else 0
        return Tried(right, scored + CALLS[name], scored * 2 * WEIGHTS + extra)

    families = {
        name: Family(
            name in KINDS, "right tokens" in name,
            [str(i) for i in range(len(seeds[0][f"test-{width}"]["right"][name]))],
            tried("validation", name), tried("test", name),
        )
        for name in CALLS
    }  # fmt: skip
    tests = [seed[f"test-{width}"] for seed in seeds]
    auc = {name: [t["auc"][name] for t in tests] for name in tests[0]["auc"]}
    return {
        "width": width,
        "auc": auc,
        "learned": {name: min(values) >= 0.9 for name, values in auc.items()},
        "first": {kind: [t["first"][kind] for t in tests] for kind in KINDS},
        "calls": compare(families, clusters(draw_errors("test", width)), LIMITS, "calls"),
    }


def run(folder: Path, models: Path, seeds: int) -> list[dict[str, Any]]:
    """Train, measure and compare; each model and each seed's measurements are kept."""
    torch.set_num_threads(1)
    measure = partial(measure_seed, folder, models)
    by = (learned(), LATE, WIDTHS, DRAWN, SETTINGS, VERIFYING)
    found = [
        kept_json(folder / f"measured-{seed}.json", by, partial(measure, seed))
        for seed in range(seeds)
    ]
    return [cell(found, width) for width in WIDTHS]
