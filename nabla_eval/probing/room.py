"""Room: is there anything that another token could change?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nabla_eval.analysis.accuracy import pass_at
from nabla_eval.analysis.intervals import Estimate, mean, proportion, ratio, unknown
from nabla_eval.methods.nabla_options import Nabla, uncertain
from nabla_eval.probing.requests import OpenPlace
from nabla_eval.protocol import Trajectory

Figures = Mapping[str, Any]


def measure(draft: Trajectory, places: Sequence[OpenPlace], config: Nabla) -> dict[str, Any]:
    """Return the positions of a draft at which the policy is unsure, and what is likely there."""
    return {
        "tokens": len(draft.tokens),
        "gated": len(uncertain(draft, config)),
        "plausible": [place.plausible for place in places],
        "outside": [place.outside for place in places],
    }


def summary(problems: Sequence[Figures], drafts: int) -> dict[str, Any]:
    """Return means over problems; shares are of one, `pass_at` is over the drafts of a problem."""
    own = [each["room"] for each in problems]
    counts = [len(each["plausible"]) for each in own]
    right = [[draft["right"] for draft in each["drafts"]] for each in problems]
    graded = all(answer is not None for answers in right for answer in answers)
    scores = {str(i): [float(answer) for answer in own] for i, own in enumerate(right) if graded}
    greedy = [each["greedy"]["right"] for each in problems]
    return {
        "problems": len(problems),
        "tokens": said(mean([each["tokens"] for each in own])),
        "uncertain_positions": said(mean(counts)),
        "refined_positions": said(mean([each["gated"] for each in own])),
        "plausible_tokens": said(ratio([sum(each["plausible"]) for each in own], counts)),
        "outside_top_2": said(ratio([sum(each["outside"]) for each in own], counts)),
        "greedy": said(proportion([[float(own)] for own in greedy]) if graded else unknown()),
        "sample": said(proportion(scores.values())),
        "pass_at": {
            str(k): said(pass_at(scores, drafts, k) if graded else unknown())
            for k in powers_of_two(drafts)
        },
    }


def powers_of_two(most: int) -> list[int]:
    """Return 1, 2, 4, ... and the greatest number itself."""
    return sorted({*(2**i for i in range(most.bit_length()) if 2**i < most), most})


def said(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as JSON keeps it: value, 95 % interval, independent problems."""
    return {
        "value": estimate.value, "ci95": list(estimate.interval), "problems": estimate.clusters,
    }  # fmt: skip
