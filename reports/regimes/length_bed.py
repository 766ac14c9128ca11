"""Bed 3, length: 128 and 256 sites whose terms add up; may one gradient repair many errors at once?

The reward is the sum of log σ of the learned scores of all sites (the models of bed 1). 15 % of the
sites are uncertain, with K plausible values; drafts are sampled at temperature 1. Two kinds of
methods go on from there:

- in place: at every site that scores below 0, put the next token of a ranking, score the response
  again, keep what scores higher, site by site. Rankings: the policy's, a head's, log π + βG with
  one backward pass for all sites, or Gibbs-with-gradients, which linearises anew in every round
  (Grathwohl et al. 2021, arXiv 2102.04509; here all sites move at once and each is judged alone);
- rolling out: best-of-N, ∇-Reasoner with every position free (`update=all`), and its twin.

Sites do not depend on each other, so ∇-Reasoner's refined rows are those of one refinement of the
whole trajectory. Its gradient is taken anew once, half-way through T = 20 steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chains import LEAN, Problems, draw_problems, plausibility
from kept import kept_json
from margins import Family, Tried, compare
from tiny_reward import WEIGHTS, TinyReward
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot
from width_models import FLOOR, KINDS, load, recipe

CELLS = ((128, 32), (128, 128), (256, 128))  # sites L, plausible values K
DRAWN = {"validation": 3, "test": 10}
UNCERTAIN, SURE = 0.15, 8.0  # share of uncertain sites; nats by which the others favour the right
ROUNDS = {"policy": 40, "head": 8, "soft": 20, "gibbs": 8}
ROLLOUTS, STEPS = 6, 20
BETAS = (3.0, 10.0)
RATES = {"AdamW 0.01": 0.01, "AdamW 0.1": 0.1, "SGD 100": 100.0}
PASS = 4  # calls of a gradient pass of a whole response, as the ledger counts
Curve = list[dict[str, Any]]  # after each round: right [P], calls, flops, seconds


@dataclass(frozen=True)
class Drafts:
    """P drafts of L sites."""

    problems: Problems
    policy: Tensor  # [P, L, V] log π
    tokens: Tensor  # [P, L]

    def repaired(self, tokens: Tensor) -> list[float]:
        """Return the share of each draft's errors that are gone, new ones taken off."""
        before = (self.tokens != self.problems.answer).double().sum(1)
        after = (tokens != self.problems.answer).double().sum(1)
        found: list[float] = ((before - after) / before.clamp_min(1)).tolist()
        return found


def draw_drafts(split: str, length: int, width: int) -> Drafts:
    """Draw problems and one sampled response to each; splits have streams of their own."""
    generator = torch.Generator().manual_seed(length + 1000 * width + (split == "test"))
    problems = draw_problems(DRAWN[split], length, generator)
    policy = plausibility(problems.answer, width, LEAN, generator)
    sure = torch.rand(problems.answer.shape, generator=generator) >= UNCERTAIN
    lift = one_hot(problems.answer, policy.shape[-1]) * sure[..., None] * SURE
    policy = (policy + lift).log_softmax(-1)
    return Drafts(problems, policy, draw(policy, generator))


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Sample tokens `[...]` from logits `[..., V]`."""
    flat = logits.softmax(-1).reshape(-1, logits.shape[-1])
    return torch.multinomial(flat, 1, generator=generator).reshape(logits.shape[:-1])


@torch.no_grad()
def terms(model: TinyReward, problems: Problems, tokens: Tensor) -> Tensor:
    """Return the score of every site, `[P, L]`."""
    return model.scores(problems, model.value(tokens))


def gradients(model: TinyReward, problems: Problems, results: Tensor, counted: Tensor) -> Tensor:
    """Return ∂ Σ log σ(score) / ∂ token `[P, L, V]` over the counted sites, in one pass."""
    results = results.detach().requires_grad_()
    total = (logsigmoid(model.scores(problems, results)) * counted).sum()
    (slope,) = torch.autograd.grad(total, results)
    return slope @ model.value.weight.T


class Cost:
    """Calls, FLOPs and processor seconds spent on each response of a batch."""

    def __init__(self, rows: int, length: int) -> None:
        self.rows, self.length, self.calls, self.flops = rows, length, 0.0, 0.0
        self.began = time.process_time()

    def generate(self, tokens: float) -> None:
        """Count tokens written."""
        self.calls += tokens
        self.flops += 2 * WEIGHTS * tokens

    def score(self) -> None:
        """Count one scoring."""
        self.calls += 1
        self.flops += 2 * WEIGHTS * self.length

    def gradient(self) -> None:
        """Count one forward and backward pass of both models."""
        self.calls += PASS
        self.flops += PASS * 2 * WEIGHTS * self.length

    def row(self, right: list[float]) -> dict[str, Any]:
        """Return one line of a curve."""
        seconds = (time.process_time() - self.began) / self.rows
        return {"right": right, "calls": self.calls, "flops": self.flops, "seconds": seconds}


def in_place(model: TinyReward, drafts: Drafts, ranking: str, beta: float) -> Curve:
    """Repair all sites that score below 0, round by round; see the module's text."""
    problems, tokens = drafts.problems, drafts.tokens.clone()
    cost = Cost(*tokens.shape)
    cost.generate(tokens.shape[1])
    best = terms(model, problems, tokens)
    cost.score()
    curve = [cost.row(drafts.repaired(tokens))]
    key = drafts.policy.clamp_min(FLOOR)
    if ranking == "head":
        with torch.no_grad():  # in the pass that scored the draft
            states = model.states(problems, model.value(tokens))
            key = key + beta * model.head(states[:, 1::2]).log_softmax(-1)
    if ranking == "soft":
        low = best < 0
        average = drafts.policy.exp() @ model.value.weight
        mixed = torch.where(low[..., None], average, model.value(tokens))
        key = key + beta * gradients(model, problems, mixed, low)
        cost.gradient()
    tried = drafts.policy.isinf().scatter(2, tokens[..., None], True)
    for _ in range(ROUNDS[ranking]):
        low = best < 0
        now = key
        if ranking == "gibbs":
            here = model.value(tokens)
            now = key + beta * gradients(model, problems, here, torch.ones_like(best))
            cost.gradient()
        proposal = now.masked_fill(tried, -torch.inf).argmax(-1)
        proposal = torch.where(low, proposal, tokens)
        tried = tried.scatter(2, proposal[..., None], True)
        scored = terms(model, problems, proposal)
        cost.score()
        better = scored > best
        tokens, best = torch.where(better, proposal, tokens), torch.where(better, scored, best)
        curve.append(cost.row(drafts.repaired(tokens)))
    return curve


def best_of_n(model: TinyReward, drafts: Drafts) -> Curve:
    """Draw whole responses and keep the best by the reward."""
    generator = torch.Generator().manual_seed(9)
    tokens, cost = drafts.tokens, Cost(*drafts.tokens.shape)
    reward = logsigmoid(terms(model, drafts.problems, tokens)).sum(1)
    curve: Curve = []
    for number in range(ROLLOUTS):
        cost.generate(tokens.shape[1])
        cost.score()
        if number:
            drawn = draw(drafts.policy, generator)
            rival = logsigmoid(terms(model, drafts.problems, drawn)).sum(1)
            better = rival > reward
            tokens = torch.where(better[:, None], drawn, tokens)
            reward = torch.where(better, rival, reward)
        curve.append(cost.row(drafts.repaired(tokens)))
    return curve


def refine(model: TinyReward, drafts: Drafts, tokens: Tensor, rate: str, cost: Cost) -> Tensor:
    """Return the logits `[P, L, V]` of all sites after T steps (DESIGN 3.2 and 3.3)."""
    z = drafts.policy.clamp_min(FLOOR).clone()
    # The anchor: offsets that make the written token the largest, by as little as it takes.
    short = z.amax(-1, keepdim=True) - z.gather(2, tokens[..., None])
    offset = one_hot(tokens, z.shape[-1]) * short
    first, second, slope = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(z)
    for step in range(STEPS):
        if step % 10 == 0:
            hard = (z + offset).argmax(-1)
            ones = torch.ones_like(tokens, dtype=z.dtype)
            g = -gradients(model, drafts.problems, model.value(hard), ones)
            g = g - drafts.policy.clamp_min(FLOOR) * 1e-3
            cost.gradient()
        p = z.softmax(-1)
        slope = p * (g - (p * g).sum(-1, keepdim=True))
        size = RATES[rate] * (0.1 + 0.9 * (1 + np.cos(np.pi * step / STEPS)) / 2)
        if rate.startswith("SGD"):
            z = z - size * slope
            continue
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        mean = first / (1 - 0.9 ** (step + 1))
        z = z - size * mean / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    return z.masked_fill(drafts.policy.isinf(), -torch.inf)


def nabla(model: TinyReward, drafts: Drafts, rate: str | None) -> Curve:
    """Run Algorithm 1 for `ROLLOUTS` rollouts; the twin where `rate` is None."""
    generator = torch.Generator().manual_seed(10)
    tokens, place = drafts.tokens.clone(), torch.arange(drafts.tokens.shape[1])
    length, cost = len(place), Cost(*drafts.tokens.shape)
    entropy = torch.special.entr(drafts.policy.exp()).sum(-1)
    reward = logsigmoid(terms(model, drafts.problems, tokens)).sum(1)
    cost.generate(length)
    cost.score()
    at, curve = torch.zeros(len(tokens), dtype=torch.long), [cost.row(drafts.repaired(tokens))]
    refined, moved = drafts.policy, True
    for _ in range(ROLLOUTS - 1):
        if rate is not None and moved:
            refined = refine(model, drafts, tokens, rate, cost)
        drawn = draw(refined / 1.5, generator)
        # The next uncertain site with another token drawn; from the start where none is left.
        open_sites = (drawn != tokens) & (entropy > 0.25)
        later = open_sites & (place >= at[:, None])
        site = torch.where(later.any(1)[:, None], later, open_sites).int().argmax(1)
        after = place > site[:, None]
        rival = torch.where(after, draw(drafts.policy, generator), tokens)
        rival = rival.scatter(1, site[:, None], drawn.gather(1, site[:, None]))
        cost.generate(float((length - site).float().mean()))
        cost.score()
        scored = logsigmoid(terms(model, drafts.problems, rival)).sum(1)
        better = scored > reward
        moved = bool(better.any())
        tokens = torch.where(better[:, None], rival, tokens)
        reward, at = torch.where(better, scored, reward), site + 1
        curve.append(cost.row(drafts.repaired(tokens)))
    return curve


# name -> (first-order, takes right tokens, its settings: name -> curve)
def curves(models: dict[str, TinyReward], drafts: Drafts) -> dict[str, dict[str, Curve]]:
    """Run every method on the drafts."""
    plain, head, aligned = (models[kind] for kind in KINDS)

    def tuned(model: TinyReward, ranking: str) -> dict[str, Curve]:
        return {f"β = {b:g}": in_place(model, drafts, ranking, b) for b in BETAS}

    return {
        "best-of-N": {"": best_of_n(plain, drafts)},
        "twin": {"": nabla(plain, drafts, None)},
        "policy, in place": {"": in_place(plain, drafts, "policy", 0.0)},
        "head, in place": tuned(head, "head"),
        "∇-Reasoner": {rate: nabla(plain, drafts, rate) for rate in RATES},
        "G, in place": tuned(plain, "soft"),
        "Gibbs with gradients": tuned(plain, "gibbs"),
        "aligned G, in place": tuned(aligned, "soft"),
    }


FIRST_ORDER = ("∇-Reasoner", "G, in place", "Gibbs with gradients")
GOLD = ("head, in place", "aligned G, in place")


def measure_seed(models_folder: Path, seed: int, length: int, width: int) -> dict[str, Any]:
    """Return all curves of one reward seed in one cell, by split."""
    models = {kind: load(models_folder, kind, seed) for kind in KINDS}
    found: dict[str, Any] = {}
    for split in DRAWN:
        drafts = draw_drafts(split, length, width)
        found[split] = curves(models, drafts)
        if split == "test":
            found |= gates(models["plain"], drafts)
    return found


def gates(model: TinyReward, drafts: Drafts) -> dict[str, float]:
    """Return the same-place AUC at uncertain sites of the drafts, and how hard their errors are."""
    answer, policy = drafts.problems.answer, drafts.policy
    wrong = drafts.tokens != answer
    good, bad = terms(model, drafts.problems, answer), terms(model, drafts.problems, drafts.tokens)
    rank = (policy > policy.gather(2, answer[..., None])).sum(2)
    auc = ((good > bad).double() + 0.5 * (good == bad).double())[wrong].mean()
    return {"auc": float(auc), "outside": float((rank[wrong] > 1).double().mean())}


def cell(seeds: list[dict[str, Any]], length: int, width: int) -> dict[str, Any]:
    """Return the figures of one cell: gates and comparisons at equal calls, FLOPs and seconds."""

    def tried(split: str, name: str) -> Tried:
        chosen = [[row for c in seed[split][name].values() for row in c] for seed in seeds]
        right = np.array([[row["right"] for row in rows] for rows in chosen]).swapaxes(0, 1)
        costs = [
            np.array([[[row[unit]] for row in rows] for rows in chosen]).swapaxes(0, 1)
            * np.ones_like(right)
            for unit in ("calls", "flops", "seconds")
        ]
        return Tried(right, *costs)

    families = {}
    for name, by_setting in seeds[0]["validation"].items():
        named = [
            ", ".join(part for part in (label, f"round {i}") if part)
            for label, curve in by_setting.items()
            for i in range(len(curve))
        ]
        first = any(word in name for word in FIRST_ORDER)
        families[name] = Family(
            first, name in GOLD, named, tried("validation", name), tried("test", name)
        )
    cluster = np.arange(DRAWN["test"])
    extra = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 30, 40)
    unit = 2 * WEIGHTS * length  # the draft
    auc, outside = [s["auc"] for s in seeds], seeds[0]["outside"]
    seconds = families["policy, in place"].test.seconds.mean((1, 2))
    return {
        "length": length, "width": width, "problems": DRAWN["test"], "auc": auc, "outside": outside,
        "learned": min(auc) >= 0.9 and outside >= 0.4,
        "calls": compare(
            families, cluster,
            [*(length + 1.0 + x for x in extra), 2.0 * length, 4.0 * length], "calls"),
        "flops": compare(families, cluster, [unit * (2 + x) for x in extra], "flops"),
        "seconds": compare(
            families, cluster, seconds[1::4].tolist(), "seconds"),
    }  # fmt: skip


def run(folder: Path, models: Path, seeds: int) -> list[dict[str, Any]]:
    """Measure and compare every cell; each seed's curves are kept."""
    cells = []
    by = (recipe(), DRAWN, UNCERTAIN, SURE, ROUNDS, ROLLOUTS, STEPS, BETAS, RATES, PASS)
    for length, width in CELLS:
        measure = partial(measure_seed, models, length=length, width=width)
        found = [
            kept_json(folder / f"{length}-{width}-{seed}.json", by, partial(measure, seed))
            for seed in range(seeds)
        ]
        cells.append(cell(found, length, width))
    return cells
