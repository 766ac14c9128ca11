"""Room: is there anything that another token could change?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from nabla_eval.analysis.accuracy import pass_at
from nabla_eval.analysis.intervals import mean_probability, proportion, ratio
from nabla_eval.dto.objective import widen
from nabla_eval.models.pair import Policy
from nabla_eval.probing.grades import Problems, known
from nabla_eval.probing.plan import Plan
from nabla_eval.protocol import Trajectory

FLAT = 0.5  # with one plausible token at most, below this probability of the first, p is flat
_ELEMENTS = 2**25  # of rows x V formed at once


class OpenPlace(NamedTuple):
    """A position at which the policy finds two tokens plausible, most likely ones first."""

    position: int
    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]  # at temperature 1
    plausible: int
    outside: float  # probability of all tokens but the two most likely


@torch.no_grad()
def open_places(policy: Policy, draft: Trajectory, plan: Plan) -> list[OpenPlace]:
    """Return the positions of a draft with at least two plausible tokens, from its states."""
    found: list[OpenPlace] = []
    for states in draft.states.split(max(1, _ELEMENTS // policy.vocabulary)):
        p = widen(policy.head(states)).softmax(-1)
        top, tokens = p.topk(min(plan.tokens, p.shape[-1]))
        counts = (p >= plan.plausible).sum(-1).tolist()
        outside = (1 - top[:, :2].sum(-1)).clamp(min=0).tolist()
        rows = zip(tokens.tolist(), top.tolist(), counts, outside, strict=True)
        for i, (own, each, count, rest) in enumerate(rows, start=len(found)):
            found.append(OpenPlace(i, tuple(own[:count]), tuple(each[:count]), count, rest))
    return [place for place in found if place.plausible >= 2]


def measure(draft: Trajectory, places: Sequence[OpenPlace], refined: int) -> dict[str, Any]:
    """Return the positions of a draft at which the policy is unsure, and what is likely there.

    `flat` counts those where it is so unsure that no two tokens are plausible, `gated` those that
    ∇-Reasoner would refine.
    """
    known = {place.position for place in places}
    flat = [p < FLAT for i, p in enumerate(draft.top_probability) if i not in known]
    return {
        "flat": sum(flat),
        "tokens": len(draft.tokens),
        "gated": refined,
        "plausible": [place.plausible for place in places],
        "outside": [place.outside for place in places],
    }


def summary(problems: Problems, drafts: int) -> dict[str, Any]:
    """Return means over problems; shares are of one, `pass_at` is over the drafts of a problem.

    What is about right answers is over the problems that are graded.
    """
    own = [each["room"] for each in problems]
    counts = [len(each["plausible"]) for each in own]
    once = [1] * len(own)
    right = [[float(draft["right"]) for draft in each["drafts"]] for each in known(problems)]
    scores = {str(i): own for i, own in enumerate(right)}
    greedy = [[float(each["greedy"]["right"])] for each in known(problems)]
    return {
        "problems": len(problems),
        "tokens": ratio([each["tokens"] for each in own], once),
        "uncertain_positions": ratio(counts, once),
        "flat_positions": ratio([each["flat"] for each in own], once),
        "refined_positions": ratio([each["gated"] for each in own], once),
        "plausible_tokens": ratio([sum(each["plausible"]) for each in own], counts),
        "outside_top_2": mean_probability([sum(each["outside"]) for each in own], counts),
        "greedy": proportion(greedy),
        "sample": proportion(scores.values()),
        "pass_at": {str(k): pass_at(scores, k) for k in powers_of_two(drafts)},
    }


def powers_of_two(most: int) -> list[int]:
    """Return 1, 2, 4, ... and the greatest number itself."""
    return sorted({*(2**i for i in range(most.bit_length()) if 2**i < most), most})
