"""Reward models of the bed `countdown`: plain, or with a gradient aligned by one of four recipes.

All learn from samples of the shipped policy as the shipped reward model does
(`reports/embedded/train_reward.py`), by batches of half the size, and from responses with a false
result besides: the policy's own are never false. The aligned ones also learn by double
backpropagation (DESIGN 3.8), half from places where the policy is unsure, half from results, where
a made policy is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chains import LEAN
from kept import kept_model
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import logsigmoid
from width_models import BETA, EXTRA, FLOOR, GOLD

sys.path.append(str(Path(__file__).resolve().parents[1] / "embedded"))

from pair_tokenizer import IDS, TOKENS, encode_prompt, token_strings
from plain_sampling import padded, token_logits
from prefix_oracle import PrefixOracle
from train_policy import fit
from train_reward import Graded, RewardRecipe, Rows, build_reward, collect, grade, reward_loss

from nabla_eval.embedded import paths
from nabla_eval.embedded.countdown import MAX_VALUE

RECIPE = RewardRecipe(batch=64, samples=4)
LATE = 300  # steps of alignment after convergence
SURE = 0.97  # the policy is sure of a token above this probability
SEARCHED = 6_000  # responses in which results are made false and places to align at are found
OWN = 8  # of the policy's first tokens, whose exact scores are the target without right tokens
WIDTHS = (8, 32)  # K: plausible values of a result


@dataclass(frozen=True)
class Places:
    """B places of responses that are right before them; L tokens, V vocabulary."""

    row: Tensor  # [B] which response
    ids: Tensor  # [B, L] prompt and response, padded on the right
    place: Tensor  # [B] index in ids
    right: Tensor  # [B, V] whether the target stays reachable with this token there
    policy: Tensor  # [B, V] log π there

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Tensor) -> Places:
        """Return some places, cut behind the last: causal scores see nothing of what follows."""
        place = self.place[rows]
        ids = self.ids[rows, : int(place.max()) + 1]
        return Places(self.row[rows], ids, place, self.right[rows], self.policy[rows])

    @property
    def written(self) -> Tensor:
        """The tokens that stand there, [B]."""
        return self.ids.gather(1, self.place[:, None])[:, 0]


def places(policy: Any, rows: Rows) -> Places:
    """Return every place of these responses up to the first wrong token, that one included."""
    index, place, right, said = [], [], [], []
    problems, responses = zip(*rows, strict=True)
    logits = token_logits(policy, problems, responses)
    for i, ((problem, response), values) in enumerate(zip(rows, logits, strict=True)):
        oracle, start = PrefixOracle(problem), len(encode_prompt(problem))
        for j, token in enumerate(token_strings(response)):
            if not oracle.alive:
                break
            index.append(i)
            place.append(start + j)
            right.append(_mask(oracle.right_tokens()))
            said.append(values[j].log_softmax(-1))
            oracle.read(token)
    ids = padded([encode_prompt(problem) + response for problem, response in rows])
    kept = torch.tensor(index)
    return Places(kept, ids[kept], torch.tensor(place), torch.stack(right), torch.stack(said))


def _mask(tokens: Sequence[str] | set[str]) -> Tensor:
    found = torch.zeros(len(TOKENS), dtype=torch.bool)
    found[[IDS[token] for token in tokens]] = True
    return found


def results(found: Places) -> Places:
    """Return the places of an equation's result."""
    before = found.ids.gather(1, found.place[:, None] - 1)[:, 0]
    return found[(before == IDS["="]).nonzero()[:, 0]]


def made_policy(right: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Return log-probabilities `[B, V]` of `width` values 1..99, a right `[B]` one among them.

    As in bed 1: ranked by noise with a slight lean to the right one.
    """
    rows = right[:, None]
    keys = torch.rand((len(right), MAX_VALUE + 1), generator=generator).scatter(1, rows, 2.0)
    keys[:, 0] = -1.0
    noise = torch.randn(keys.shape, generator=generator)
    noise = noise.scatter_add(1, rows, torch.full(rows.shape, LEAN))
    chosen = keys.topk(width, dim=1).indices
    logits = torch.full((len(right), len(TOKENS)), -torch.inf)
    return logits.scatter(1, chosen, noise.gather(1, chosen)).log_softmax(-1)


def linearised(model: Any, places: Places, **how: Any) -> Tensor:
    """Return G `[B, V]` of DESIGN 3.8, in nats, at the policy's mean embedding."""
    table = model.get_input_embeddings().weight
    rows = torch.arange(len(places))
    inner = places.policy.exp() @ table
    if not inner.requires_grad:
        inner.requires_grad_()
    embeddings = table[places.ids].index_put((rows, places.place), inner)
    with sdpa_kernel(SDPBackend.MATH):  # no fused kernel has a second derivative
        scores = model(inputs_embeds=embeddings).logits[rows, places.place, 0]
        (slope,) = torch.autograd.grad(logsigmoid(scores).sum(), inner, **how)
    return slope @ table.T


@torch.no_grad()
def swapped(model: Any, places: Places, tokens: Tensor) -> Tensor:
    """Return the scores `[B, K]` of the prefixes that end with tokens `[B, K]` at the place."""
    (rows, count), width = tokens.shape, places.ids.shape[1]
    place = places.place[:, None].expand(rows, count)
    ids = places.ids[:, None].expand(rows, count, width)
    ids = ids.scatter(2, place[..., None], tokens[..., None]).flatten(0, 1)
    scores = model(input_ids=ids).logits[..., 0].view(rows, count, width)
    found: Tensor = scores.gather(2, place[..., None])[..., 0]
    return found


def aligned_term(model: Any, places: Places, gold: bool) -> Tensor:
    """Return the cross-entropy of π exp(βG) with the right tokens, or with its own exact scores."""
    tilted = places.policy.clamp_min(FLOOR) + BETA * linearised(model, places, create_graph=True)
    if gold:
        share = tilted.log_softmax(-1).masked_fill(~places.right, -torch.inf)
        return -share.logsumexp(-1).mean()
    tokens = places.policy.topk(OWN, dim=-1).indices
    exact = logsigmoid(swapped(model, places, tokens))
    target = (places.policy.gather(1, tokens).clamp_min(FLOOR) + BETA * exact).softmax(-1)
    return -(target * tilted.gather(1, tokens).log_softmax(-1)).sum(-1).mean()


@cache
def shipped() -> tuple[Any, Any]:
    """Return the shipped policy and reward model."""
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    kinds = (AutoModelForCausalLM, AutoModelForTokenClassification)
    policy, reward = (
        kind.from_pretrained(path, dtype=torch.float32).eval().requires_grad_(False)
        for kind, path in zip(kinds, paths(), strict=True)
    )
    return policy, reward


@cache
def lessons(seed: int) -> tuple[Graded, Places, Places]:
    """Return a seed's graded responses, and places to align at: unsure ones, and results."""
    policy, recipe = shipped()[0], replace(RECIPE, seed=seed)
    generator = torch.Generator().manual_seed(4000 + seed)
    rows = collect(policy, recipe)
    found = places(policy, rows[:SEARCHED])
    unsure = found[(found.policy.amax(-1).exp() <= SURE).nonzero()[:, 0]]
    at = results(found)
    right = at.right.int().argmax(-1)
    false = torch.randint(1, MAX_VALUE, right.shape, generator=generator)
    false += (false >= right).long()
    for row, place, token in zip(at.row.tolist(), at.place.tolist(), false.tolist(), strict=True):
        problem, response = rows[row]
        here = place - len(encode_prompt(problem))
        rows.append((problem, [*response[:here], token, *response[here + 1 :]]))
    wide = torch.arange(len(right))[:, None] % 2 == 1
    narrow, broad = (made_policy(right, width, generator) for width in WIDTHS)
    return grade(rows, recipe), unsure, replace(at, policy=torch.where(wide, broad, narrow))


def learned() -> tuple[Any, ...]:
    """Return what decides a model's weights besides its kind and seed."""
    return RECIPE, LATE, SURE, SEARCHED, OWN, WIDTHS, GOLD, EXTRA, BETA, FLOOR, LEAN


def load(folder: Path, kind: str, seed: int | None) -> Any:
    """Return a reward model of a kind, trained now if it was not yet.

    Seed None is the shipped one: plain as it is, and late from its weights, by the draws of seed 0.
    """
    recipe, _, target = kind.partition(", ")
    if seed is None and recipe == "plain":
        return shipped()[1]
    steps = LATE if recipe == "late" else RECIPE.steps
    drawn = replace(RECIPE, seed=seed or 0, steps=steps)
    model = build_reward(shipped()[0], drawn)
    if recipe == "late":
        model.load_state_dict(load(folder, "plain", seed).state_dict())

    def train() -> None:
        graded, *sources = lessons(drawn.seed)
        rng, others = (np.random.default_rng([drawn.seed, stream]) for stream in (1, 3))

        def loss() -> Tensor:
            rows = torch.from_numpy(rng.integers(len(graded.ids), size=drawn.batch))
            total = reward_loss(model, graded, rows)
            if recipe != "plain":
                for source in sources:
                    at = torch.from_numpy(others.integers(len(source), size=GOLD // 2))
                    term = aligned_term(model, source[at], target == "right tokens")
                    total = total + EXTRA * term / len(sources)
            return total

        fit(model.train(), drawn, loss, None)

    name = f"{kind.replace(', ', '-').replace(' ', '-')}-{'shipped' if seed is None else seed}"
    kept_model(folder / f"{name}.pt", learned(), model, train)
    return model
