"""Bed 1, width: one wrong token among K plausible ones; which method repairs it at which cost?

Every method ranks the plausible tokens, then has the reward model score the first m of them exactly
and takes the best, or stops at the first that scores above θ. They differ in the ranking: the
policy's own, a head's, or log π + βG. A model call is a token scored, a head's prediction, or half
of a gradient; FLOPs assume that what stands before the token is cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from chains import LEAN, SYMBOLS, Problems, draw_problems, plausibility
from kept import kept_json
from margins import Family, Floats, Tried, compare
from numpy.typing import NDArray
from tiny_reward import HEAD_WEIGHTS, WEIGHTS, TinyReward, fit, linearised
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from width_models import FLOOR, GOLD, KINDS, STEPS, WIDTHS, load, recipe

DRAWN = {"validation": 150, "test": 350}  # problems; those whose first choice is wrong count
LIMITS = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0]
BETAS = (1.0, 3.0, 100.0)
VERIFIED = (0, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
STOPS = (0.0, 2.0, None)  # θ, a logit; None: score all m


class Choices(Protocol):
    """What a decision reads of E wrong tokens."""

    @property
    def policy(self) -> Tensor: ...  # [E, V] log π there; -inf: not plausible
    @property
    def wrong(self) -> Tensor: ...  # [E] the policy's first choice
    @property
    def good(self) -> Tensor: ...  # [E, V] which tokens are right


@dataclass(frozen=True)
class Errors:
    """E wrong tokens at the first step of as many problems."""

    problems: Problems
    policy: Tensor  # [E, V] log π there
    wrong: Tensor  # [E] the policy's first choice
    outside: float  # the share of them whose right token is not among the policy's first two

    kept: Tensor  # [P] which of the drawn problems these are

    @property
    def right(self) -> Tensor:
        """The right tokens, [E]."""
        return self.problems.answer[:, -1]

    @property
    def good(self) -> Tensor:
        """Which tokens are right, [E, V]."""
        return one_hot(self.right, self.policy.shape[1]).bool()


def draw_split(split: str) -> Problems:
    """Draw the problems of a split; none is in both."""
    problems = draw_problems(sum(DRAWN.values()), 1, torch.Generator().manual_seed(77))
    cut = DRAWN["validation"]
    return problems[:cut] if split == "validation" else problems[cut:]


def draw_errors(split: str, width: int) -> Errors:
    """Return the problems of a split in which the policy's first choice is wrong."""
    problems = draw_split(split)
    generator = torch.Generator().manual_seed(1000 * width + (split == "test"))
    right = problems.answer[:, -1]
    policy = plausibility(right, width, LEAN, generator)
    rank = (policy > policy.gather(1, right[:, None])).sum(1)
    kept = rank > 0
    outside = float((rank[kept] > 1).float().mean())
    return Errors(problems[kept], policy[kept], policy[kept].argmax(1), outside, kept)


@torch.no_grad()
def exact_scores(model: TinyReward, problems: Problems) -> Tensor:
    """Return the score of every value at the last step, `[E, V]`."""
    values = model.value.weight.shape[0]
    found = []
    for value in range(values):
        written = problems.answer.clone()
        written[:, -1] = value
        found.append(model.scores(problems, model.value(written))[:, -1])
    return torch.stack(found, 1)


def gradient(model: TinyReward, errors: Errors, point: str) -> Tensor:
    """Return G `[E, V]` at the policy's mean embedding ("soft") or at its first choice ("hard")."""
    mixture = errors.policy.exp()
    if point == "hard":
        mixture = one_hot(errors.wrong, mixture.shape[1]).float()
    place = torch.zeros_like(errors.wrong)
    return linearised(model, errors.problems, errors.problems.answer, place, mixture)


def head_states(model: TinyReward, problems: Problems) -> Tensor:
    """Return the states `[E, D]` at the place before the last step's result."""
    with torch.no_grad():
        return model.states(problems, model.value(problems.answer))[:, -2]


def probe(model: TinyReward, seed: int) -> torch.nn.Linear:
    """Train a head on a frozen trunk with as many right tokens as the other head saw."""
    generator = torch.Generator().manual_seed(3000 + seed)
    problems = draw_problems(STEPS * GOLD, 1, generator)
    states, right = head_states(model, problems), problems.answer[:, -1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = torch.nn.Linear(states.shape[1], model.value.weight.shape[0])

    def loss(step: int) -> Tensor:
        rows = torch.randint(len(states), (256,), generator=generator)
        return cross_entropy(head(states[rows]), right[rows])

    fit(head, loss, 300, 1e-2)
    return head.requires_grad_(False)


def ordered(errors: Choices, ranking: Tensor | None, beta: float) -> Tensor:
    """Return the plausible tokens but the wrong one by falling log π + β × ranking, `[E, m]`."""
    allowed = errors.policy.isfinite().scatter(1, errors.wrong[:, None], False)
    key = errors.policy.clamp_min(FLOOR)
    if ranking is not None:
        key = key + beta * ranking
    order = key.masked_fill(~allowed, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return order[:, : int(allowed.sum(1)[0])]


def decide(
    errors: Choices, order: Tensor, exact: Tensor, most: int, stop: float | None
) -> tuple[Floats, Floats]:
    """Return whether the chosen token is right, and how many were scored exactly; `[E]` each."""
    order = order[:, : max(most, 1)]
    pick = torch.zeros(len(order), dtype=torch.long)
    scored = torch.full_like(pick, order.shape[1] if most else 0)
    if most:
        scores = exact.gather(1, order)
        pick = scores.argmax(1)
        if stop is not None:
            good = scores > stop
            first = good.int().argmax(1)
            pick = torch.where(good.any(1), first, pick)
            scored = torch.where(good.any(1), first + 1, scored)
    chosen = order.gather(1, pick[:, None])[:, 0]
    right = errors.good.gather(1, chosen[:, None])[:, 0]
    return right.double().numpy(), scored.double().numpy()


def decide_all(
    errors: Choices,
    ranking: Tensor | None,
    exact: Tensor,
    tried: list[tuple[float, int, float | None]],
) -> tuple[list[list[int]], list[list[int]]]:
    """Return `decide` for all settings (β, m, θ), as lists to be stored."""
    orders = {beta: ordered(errors, ranking, beta) for beta, _, _ in tried}
    found = [decide(errors, orders[beta], exact, most, stop) for beta, most, stop in tried]
    right, scored = zip(*found, strict=True)
    return [r.astype(int).tolist() for r in right], [c.astype(int).tolist() for c in scored]


# name -> (the model whose exact scores verify, first-order, takes right tokens, calls, FLOPs)
FAMILIES = {
    "exact-k": ("plain", False, False, 0.0, 0.0),
    "sequential verify": ("plain", False, False, 0.0, 0.0),
    "head on the frozen trunk": ("plain", False, True, 1.0, 2 * (WEIGHTS + HEAD_WEIGHTS)),
    "head, trained with the trunk": ("head", False, True, 1.0, 2 * (WEIGHTS + HEAD_WEIGHTS)),
    "G at the mean embedding": ("plain", True, False, 2.0, 4 * WEIGHTS + 2 * HEAD_WEIGHTS),
    "G at the first choice": ("plain", True, False, 2.0, 4 * WEIGHTS + 2 * HEAD_WEIGHTS),
    "aligned G": ("aligned", True, True, 2.0, 4 * WEIGHTS + 2 * HEAD_WEIGHTS),
}


def settings(name: str) -> list[tuple[float, int, float | None]]:
    """Return the settings (β, m, θ) that a family is tuned over."""
    betas = BETAS if FAMILIES[name][3] else (0.0,)
    stops = {"exact-k": (None,), "sequential verify": (0.0, 2.0)}.get(name, STOPS)
    return [(b, m, s) for b, m, s in product(betas, VERIFIED, stops) if m or s == stops[-1]]


class Bed:
    """The models of one seed and what they say of any errors."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.models = {kind: load(folder, kind, seed) for kind in KINDS}
        self.probe = probe(self.models["plain"], seed)

    def rankings(self, errors: Errors) -> dict[str, Tensor | None]:
        """Return each family's ranking `[E, V]`, in nats; None is the policy's own."""
        head = self.models["head"]
        before = head_states(self.models["plain"], errors.problems)
        return {
            "exact-k": None,
            "sequential verify": None,
            "head on the frozen trunk": self.probe(before).log_softmax(-1),
            "head, trained with the trunk": head.head(
                head_states(head, errors.problems)
            ).log_softmax(-1),
            "G at the mean embedding": gradient(self.models["plain"], errors, "soft"),
            "G at the first choice": gradient(self.models["plain"], errors, "hard"),
            "aligned G": gradient(self.models["aligned"], errors, "soft"),
        }


def same_place_auc(errors: Choices, exact: Tensor) -> float:
    """Return how often a right token scores above a plausible wrong one; ties count half."""
    above = pairs = 0.0
    for scores, good, known in zip(exact, errors.good, errors.policy.isfinite(), strict=True):
        right, others = scores[known & good][:, None], scores[known & ~good]
        above += float((right > others).sum()) + 0.5 * float((right == others).sum())
        pairs += right.numel() * others.numel()
    return above / pairs


def first_choice(errors: Choices, ranking: Tensor) -> float:
    """Return how often a ranking of all plausible tokens puts a right one first."""
    key = ranking.masked_fill(~errors.policy.isfinite(), -torch.inf)
    return float(errors.good.gather(1, key.argmax(1, keepdim=True)).double().mean())


def measure_seed(folder: Path, seed: int) -> dict[str, Any]:
    """Return what one reward seed's models do at every width, by split, family and setting."""
    bed, found = Bed(folder, seed), {}
    for split in DRAWN:
        drawn = draw_split(split)
        scored = {kind: exact_scores(model, drawn) for kind, model in bed.models.items()}
        for width in WIDTHS:
            errors = draw_errors(split, width)
            exact = {kind: scores[errors.kept] for kind, scores in scored.items()}
            rankings = bed.rankings(errors)
            results = {
                name: decide_all(errors, ranking, exact[FAMILIES[name][0]], settings(name))
                for name, ranking in rankings.items()
            }
            found[f"{split}-{width}"] = {
                "auc": {kind: same_place_auc(errors, exact[kind]) for kind in KINDS},
                "outside": errors.outside,
                "first": {
                    **{n: first_choice(errors, r) for n, r in rankings.items() if r is not None},
                    "exact scores": first_choice(errors, exact["plain"]),
                    "policy": first_choice(errors, errors.policy),
                },
                "right": {name: right for name, (right, _) in results.items()},
                "scored": {name: scored for name, (_, scored) in results.items()},
            }
    return found


def clusters(errors: Errors) -> NDArray[np.int64]:
    """Return the situation of each error: what a model knows of it is the same wherever it is."""
    condition = errors.problems.conditions[:, -1]
    found: NDArray[np.int64] = (condition[:, 0] * SYMBOLS + condition[:, 1]).numpy()
    return found


def cell(seeds: list[dict[str, Any]], width: int) -> dict[str, Any]:
    """Return the figures of one width: gates, first choices, and comparisons at equal cost."""

    def tried(split: str, name: str) -> Tried:
        cells = [seed[f"{split}-{width}"] for seed in seeds]
        right = np.array([c["right"][name] for c in cells]).swapaxes(0, 1)
        scored = np.array([c["scored"][name] for c in cells]).swapaxes(0, 1)
        _, _, _, calls, flops = FAMILIES[name]
        return Tried(right, scored + calls, scored * 2 * WEIGHTS + flops)

    families = {
        name: Family(
            first, gold, [_say(name, *s) for s in settings(name)],
            tried("validation", name), tried("test", name),
        )
        for name, (_, first, gold, _, _) in FAMILIES.items()
    }  # fmt: skip
    errors = draw_errors("test", width)
    cluster = clusters(errors)
    tests = [seed[f"test-{width}"] for seed in seeds]
    auc = {kind: [t["auc"][kind] for t in tests] for kind in KINDS}
    return {
        "width": width, "errors": len(errors.wrong), "clusters": len(np.unique(cluster)),
        "auc": auc, "outside": errors.outside,
        "learned": min(auc["plain"]) >= 0.9 and errors.outside >= 0.4,
        "first": {k: [t["first"][k] for t in tests] for k in tests[0]["first"]},
        "calls": compare(families, cluster, LIMITS, "calls"),
        "flops": compare(families, cluster, [x * 2 * WEIGHTS for x in LIMITS], "flops"),
    }  # fmt: skip


def _say(name: str, beta: float, most: int, stop: float | None) -> str:
    parts = [f"β = {beta:g}"] if beta else []
    parts.append(f"m = {most}" if most else "unverified")
    return ", ".join(parts + ([f"θ = {stop:g}"] if stop is not None and most else []))


def run(folder: Path, seeds: int) -> list[dict[str, Any]]:
    """Train, measure and compare; each model and each seed's measurements are kept."""
    by = (recipe(), WIDTHS, DRAWN, [settings(name) for name in FAMILIES])
    found = [
        kept_json(folder / f"measured-{seed}.json", by, partial(measure_seed, folder, seed))
        for seed in range(seeds)
    ]
    return [cell(found, width) for width in WIDTHS]
