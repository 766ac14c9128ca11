"""Straight-through's gradient against the one that it stands for, on the embedded pair.

DTO steps along J(p) g at the logits z_i of a token, p = softmax(z_i), J = diag(p) - ppᵀ and
g = ∂L/∂y_i at the hard token. The gradient of E[L] over y_i ~ p, all other tokens held, is J(p)
times the losses of all V swapped sequences. Both are computed here, the second by scoring every
token.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nabla_eval as ne
from nabla_eval.analysis.intervals import Estimate, mean
from nabla_eval.embedded.countdown import problems
from nabla_eval.engine import naive
from nabla_eval.models.pair import Pair
from nabla_eval.options import Objective, Sampling
from nabla_eval.protocol import Problem
from nabla_eval.randomness import Key

Table = dict[str, dict[str, Estimate]]  # loss -> what `compare` says

HERE = Path(__file__).parent
ENTROPY = 0.25  # nats: the positions at which ∇-Reasoner looks
LOSSES = {  # name -> lambda, weight of the likelihood
    "-log π alone": (0.0, 1.0),
    "-r alone": (1.0, 0.0),
    "Eq. 2, λ = 1": (1.0, 1.0),
    "released weights": (1.0, 1e-3),
}


@dataclass(frozen=True)
class Position:
    """One uncertain position: both gradients at its logits, by loss."""

    problem: int
    straight: dict[str, Tensor]  # [V]
    exact: dict[str, Tensor]  # [V]


def onto_logits(p: Tensor, g: Tensor) -> Tensor:
    """(diag(p) - ppᵀ) g; [V]."""
    return p * (g - p @ g)


@torch.no_grad()
def swapped(
    pair: Pair, problem: Problem, tokens: list[int], scored: int, at: int
) -> tuple[Tensor, Tensor]:
    """-log π and -r of the response with every token at `at`, the others held; [V] each."""
    vocabulary, start = pair.policy.vocabulary, len(problem.prompt)
    rows = torch.tensor([*tokens]).repeat(vocabulary, 1)
    rows[:, at] = torch.arange(vocabulary)
    prompt = torch.tensor(problem.prompt).repeat(vocabulary, 1)
    states = pair.policy.base(input_ids=torch.cat([prompt, rows], 1)).last_hidden_state
    logs = torch.log_softmax(pair.policy.head(states[:, start - 1 : -1]).double(), -1)
    likelihood = logs.gather(2, rows[:, :, None])[:, :, 0].sum(1)
    judge = pair.judge
    before, after = (
        judge.table[list(ids)] for ids in (problem.affixes.before, problem.affixes.after)
    )
    inside = judge.embedding[rows[:, :scored]]
    inputs = [part.expand(vocabulary, -1, -1) for part in (before, after)]
    read = judge.base(inputs_embeds=torch.cat([inputs[0], inside, inputs[1]], 1)).last_hidden_state
    return -likelihood, -judge.head(read)[:, -1].double()


def positions(pair: Pair, count: int, seed: int) -> Iterator[Position]:
    """Every uncertain position of one sampled response to each of `count` test problems."""
    sampling = Sampling(temperature=1.0, top_p=1.0)
    for index, asked in enumerate(problems(count, "test", seed=seed)):
        messages = [{"role": "user", "content": asked.prompt}]
        ids = pair.policy.encode(asked.prompt)
        problem = pair.problem(ids, Key.root(seed) / index, messages=messages, max_new_tokens=40)
        drawn = naive.rollout(pair, problem, sampling, problem.key / "straight-through")
        scored, logits = len(drawn.scored), torch.stack(drawn.z).double()
        slopes = {
            lam: naive.token_gradient(
                pair, problem, drawn.y, scored, Objective(lam=lam, nll_weight=1.0)
            )
            for lam in (0.0, 1.0)
        }
        for at in range(scored):
            p = torch.softmax(logits[at], -1)
            if float(torch.special.entr(p).sum()) <= ENTROPY:
                continue
            likelihood, score = swapped(pair, problem, drawn.y, scored, at)
            flat, judged = slopes[0.0][at], (slopes[1.0] - slopes[0.0])[at]
            yield Position(
                index,
                {n: onto_logits(p, w * flat + lam * judged) for n, (lam, w) in LOSSES.items()},
                {n: onto_logits(p, w * likelihood + lam * score) for n, (lam, w) in LOSSES.items()},
            )


def compare(straight: Tensor, exact: Tensor) -> dict[str, float]:
    """Cosine, relative size of the error, and whether both favour one token and descend."""
    cosine = float(torch.nn.functional.cosine_similarity(straight, exact, dim=0))
    return {
        "cosine": cosine,
        "error": float((straight - exact).norm() / exact.norm()),
        "length": float(straight.norm() / exact.norm()),
        "descends": float(cosine > 0),
        "same token": float(straight.argmin() == exact.argmin()),
    }


def summarise(found: list[Position]) -> Table:
    """Means over problems of what `compare` says, by loss."""
    table: Table = {}
    for name in LOSSES:
        by_problem: dict[int, list[dict[str, float]]] = {}
        for entry in found:
            row = compare(entry.straight[name], entry.exact[name])
            by_problem.setdefault(entry.problem, []).append(row)
        keys = next(iter(by_problem.values()))[0]
        table[name] = {
            key: mean([sum(row[key] for row in rows) / len(rows) for rows in by_problem.values()])
            for key in keys
        }
        lengths = [compare(e.straight[name], e.exact[name])["length"] for e in found]
        middle = float(torch.tensor(lengths).median())
        table[name]["length"] = Estimate(middle, 0.0, middle, middle, len(by_problem))
        errors = [compare(e.straight[name], e.exact[name])["error"] for e in found]
        middle = float(torch.tensor(errors).median())
        table[name]["error"] = Estimate(middle, 0.0, middle, middle, len(by_problem))
    return table


def page(table: Table, found: list[Position], count: int, seed: int) -> str:
    """README.md of this folder."""
    lines = [
        "# Straight-through on the embedded pair",
        "",
        "DTO steps along J(p)g, g = ∂L/∂y at the hard token. That is the gradient of E[L] over the",
        "token's own distribution exactly where L is linear in it (theory/README.md, section 5).",
        "Here both gradients are computed, the exact one by scoring all 109 tokens at each of the",
        f"{len(found)} positions above {ENTROPY} nats in one sampled response (temperature 1) to",
        f"each of {count} test problems of three numbers (seed {seed}). Means over problems with",
        "their 95 % intervals; the last two columns are medians over positions.",
        "",
        "| loss | cosine | points downhill | favours the same token | length, ours / exact "
        "| error / exact |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        cosine = row["cosine"]
        lines.append(
            f"| {name} | {cosine.value:.2f} ({cosine.low:.2f} to {cosine.high:.2f}) "
            f"| {_share(row['descends'])} | {_share(row['same token'])} "
            f"| {row['length'].value:.2f} | {row['error'].value:.2f} |"
        )
    made = "Made by `bash reports/straight_through/run.sh`."
    return "\n".join([*lines, "", *_reading(table), "", made, ""])


def _share(entry: Estimate) -> str:
    return f"{100 * entry.value:.0f} % ({100 * entry.low:.0f} to {100 * entry.high:.0f})"


def _reading(table: Table) -> list[str]:
    """What the table says, from its numbers."""
    reward, paper = table["-r alone"], table["Eq. 2, λ = 1"]
    if not reward["cosine"].excludes(0.0):
        said = "cannot be told from chance"
    else:
        way = "right" if reward["cosine"].value > 0 else "wrong"
        said = f"points the {way} way more often than not"
    downhill = table["-r alone"]["descends"]
    downhill = 100 * table["-r alone"]["descends"].value
    return [
        f"The reward's part {said}: its cosine is {reward['cosine'].value:.2f}, and",
        f"it points downhill at {downhill:.0f} % of positions, where a coin does at 50 %. With the",
        f"likelihood beside it the cosine is {paper['cosine'].value:.2f}. The error is about the",
        "size of the gradient itself, so no step size makes the bias small: it comes from reading",
        "a slope at one vertex of the simplex as the difference to the others.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pair: Any = ne.load_pair(dtype="float64")
    found = list(positions(pair, asked.problems, asked.seed))
    table = summarise(found)
    (asked.output / "README.md").write_text(page(table, found, asked.problems, asked.seed))
    losses = {
        name: {key: [e.value, e.low, e.high] for key, e in row.items()}
        for name, row in table.items()
    }
    stored = {"positions": len(found), "problems": asked.problems, "seed": asked.seed}
    text = json.dumps({**stored, "losses": losses}, indent=1)
    (asked.output / "measured.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
