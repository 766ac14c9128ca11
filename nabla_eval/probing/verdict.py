"""The verdict: what the figures mean, by rules that docs/probe.md states.

    cannot matter   no draw is moved, or the two loops differ in fewer than `HARDLY` of runs, or the
                    margin in accuracy lies within a point of zero
    pays, costs     the expected margin's interval lies above, below zero
    cannot be told  neither

The margin is in accuracy where answers are known, else in reward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from nabla_eval.methods.nabla_options import Nabla

HARDLY = 0.02  # of runs that differ: fewer than one in fifty
FEW = 0.5  # uncertain positions a response, below which there is no room
BLIND = 0.6  # within-question AUC, below which a reward model hardly knows what is right
POINT = 0.01  # a margin below it is none; more problems should make it visible

BACKWARDS = "backwards"

Figure = Mapping[str, Any]


def verdict(sections: Mapping[str, Any], config: Nabla, missing: int = 0) -> dict[str, Any]:
    """Return the answer, what the figures say in words, and what to change."""
    answer = _answer(sections)
    return {
        "answer": answer,
        "sentences": [*_sentences(sections, config, answer), *_left_out(missing)],
        "try": list(_changes(sections, config, answer)),
    }


def _margin(sections: Mapping[str, Any]) -> tuple[Figure, bool]:
    """Return the expected margin, and whether it is one of accuracy."""
    margin = sections["advantage"]["margin"]
    known = margin["accuracy"] is not None
    return (margin["accuracy"] if known else margin["reward"]), known


def _answer(sections: Mapping[str, Any]) -> str:
    if _given(sections)["variation"]["value"] == 0 or _most(sections) < HARDLY:
        return "cannot matter"
    margin, graded = _margin(sections)
    low, high = margin["ci95"]
    if graded and max(-low, high) < POINT:
        return "cannot matter"
    return "pays" if low > 0 else "costs" if high < 0 else "cannot be told"


def _given(sections: Mapping[str, Any]) -> Figure:
    row: Figure = sections["reach"]["settings"][0]
    return row


def _most(sections: Mapping[str, Any]) -> float:
    """Return the upper end of the share of runs that the gradient changes."""
    high: float = sections["advantage"]["runs_that_differ"]["ci95"][1]
    return high


def _left_out(missing: int) -> Iterator[str]:
    if missing:
        yield f"{missing} problems could not be measured and are left out."


def _sentences(sections: Mapping[str, Any], config: Nabla, answer: str) -> Iterator[str]:
    yield _on_margin(sections, answer)
    yield _on_room(sections["room"])
    yield _on_reach(sections)
    yield from _on_fidelity(sections["fidelity"], config)
    yield from _on_reward(sections["reward"])


def _on_margin(sections: Mapping[str, Any], answer: str) -> str:
    own, n = sections["advantage"], sections["advantage"]["n"]
    margin, graded = _margin(sections)
    changed = f"it changes {_percent(own['runs_that_differ'])} of runs at N = {n}"
    told = _points(margin) if graded else f"{_number(margin, 2)} of reward"
    if answer == "cannot matter":
        return f"The gradient cannot matter here: {changed}; expect {told}."
    calls = own["calls_per_problem"]["value"]
    beside = f"over its twin, for {calls:.1f} model calls more a problem"
    if answer == "cannot be told":
        return f"Expect {told} {beside}, which cannot be told from nothing; {changed}."
    return f"The gradient {answer} here: expect {told} {beside}; {changed}."


def _on_room(room: Mapping[str, Any]) -> str:
    positions, tokens = room["uncertain_positions"]["value"], room["plausible_tokens"]["value"]
    if positions < FEW:
        return (
            f"There is hardly any room: a response has {positions:.1f} positions with two "
            "plausible tokens."
        )
    words = f"A response has {positions:.1f} positions with {tokens:.1f} plausible tokens each"
    most = list(room["pass_at"])[-1]
    if math.isnan(room["greedy"]["value"]):
        return f"{words}."
    found, greedy = 100 * room["pass_at"][most]["value"], 100 * room["greedy"]["value"]
    return (
        f"{words}; one of {most} drafts is right for {found:.0f} % of problems, greedy decoding "
        f"for {greedy:.0f} %."
    )


def _on_reach(sections: Mapping[str, Any]) -> str:
    given = _given(sections)
    if given["variation"]["value"] == 0:
        return "No draw moves at all at these settings."
    bound = given["variation_bound"]
    most = "nothing bounds it" if bound is None else f"at most {100 * bound:.1f} % is possible"
    return (
        f"The refined draw differs from the policy's by {_percent(given['variation'])} of its "
        f"probability ({most}); {100 * given['certified']['value']:.0f} % of draws are certified."
    )


def own_ranking(config: Nabla) -> str:
    """Return the ranking that ∇-Reasoner follows with these options."""
    return f"{config.reward_gradient} gradient, hard"


def _row(fidelity: Mapping[str, Any], name: str, change: str = "rolled") -> Figure | None:
    rows = (r for r in fidelity["rankings"] if (r["ranking"], r["change"]) == (name, change))
    return next(rows, None)


def _beyond(row: Figure | None) -> str:
    """Return how a gradient ranks tokens that does not rank them well."""
    backwards = row is not None and row["correlation"]["ci95"][1] < 0
    return BACKWARDS if backwards else "no better than chance"


def _on_fidelity(fidelity: Mapping[str, Any], config: Nabla) -> Iterator[str]:
    row = _row(fidelity, own_ranking(config))
    if row is None or math.isnan(row["correlation"]["value"]):
        yield "Fidelity is unknown: no position had two tokens whose rewards differ beyond noise."
        return
    low, high = row["correlation"]["ci95"]
    told = f"rank correlation with what rolling out gives {_number(row['correlation'], 2)}"
    if low <= 0:
        yield f"The gradient ranks tokens {_beyond(row)} ({told})."
        return
    low, high = row["above_policy"]["ci95"]
    side = "better than" if low > 0 else "worse than" if high < 0 else "no better than"
    yield f"The gradient ranks tokens {side} the policy does ({told})."


def _on_reward(reward: Mapping[str, Any]) -> Iterator[str]:
    if reward["note"]:
        yield reward["note"]
        return
    auc, lost = reward["auc_within"], reward["over_optimised"]
    if not math.isnan(auc["value"]):
        low, high = auc["ci95"]
        yield (
            "The reward model tells right from wrong within a question with AUC "
            f"{auc['value']:.2f} ({low:.2f} to {high:.2f})."
        )
    if lost["ci95"][1] < 0:
        yield f"Choosing among twice as many drafts by reward loses {_points(lost)}."


def _changes(sections: Mapping[str, Any], config: Nabla, answer: str) -> Iterator[str]:
    fidelity, rows = sections["fidelity"], sections["reach"]["settings"]
    own = _row(fidelity, own_ranking(config))
    faithful = own is not None and own["correlation"]["ci95"][0] > 0
    if sections["room"]["uncertain_positions"]["value"] < FEW:
        yield "Harder problems or a higher temperature: this policy is sure of its answers."
    if config.logits_dtype == "bfloat16" and _given(sections)["logits_moved"]["value"] < 1:
        yield "logits_dtype=float32: in bfloat16 steps are lost to rounding."
    if answer in ("cannot matter", "cannot be told"):
        wider = [r for r in rows if r["setting"].startswith("lr=")]
        current = _given(sections)["variation"]["value"]
        more = next((r for r in wider if r["variation"]["value"] > 2 * current), None)
        if more is not None and faithful:
            yield f"{more['setting']}: it moves {_percent(more['variation'])} of a draw."
        elif more is not None:
            yield (
                f"No larger lr: the gradient ranks tokens {_beyond(own)}, so it would move draws "
                f"{'towards worse tokens' if _beyond(own) == BACKWARDS else 'at random'}."
            )
    for name in ("process gradient, hard", "final gradient, mean", "process gradient, mean"):
        other = _row(fidelity, name)
        if own is None or other is None or name == own_ranking(config):
            continue
        if other["correlation"]["ci95"][0] > max(0.0, own["correlation"]["ci95"][1]):
            yield _IN_PLACE[name]
    auc = sections["reward"]["auc_within"]
    if auc is not None and auc["value"] < BLIND:
        yield "Another reward model: this one hardly knows which of two answers is right."
    if answer == "cannot be told":
        low, high = _margin(sections)[0]["ci95"]
        if _margin(sections)[1] and high - low > 2 * POINT:
            more = ((high - low) / 2 / POINT) ** 2 * sections["room"]["problems"]
            yield f"About {_round(more):,} problems, if a margin of a point should show."
    if answer != "pays":
        yield "Until then steps=0 (the twin) or best_of_n: the same search without gradients."


_IN_PLACE = {
    "process gradient, hard": "reward_gradient=process: its gradient ranks tokens better.",
    "final gradient, mean": "Gradients at the mean embedding (method=prefix_gradient).",
    "process gradient, mean": "Gradients at the mean embedding (method=prefix_gradient).",
}


def _round(number: float) -> int:
    """Two digits."""
    return int(float(f"{number:.1e}"))


def _percent(own: Figure) -> str:
    low, high = own["ci95"]
    return f"{100 * own['value']:.1f} % ({100 * low:.1f} % to {100 * high:.1f} %)"


def _points(own: Figure) -> str:
    low, high = own["ci95"]
    return f"{100 * own['value']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def _number(own: Figure, digits: int) -> str:
    low, high = own["ci95"]
    return f"{own['value']:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
