"""∇-Reasoner and its twin as one run that splits where their draws differ.

At a draw the two methods take tokens from q and t, whose total variation is d. Coupled as closely
as two draws can be, they take one token from min(q, t)/(1 - d) with probability 1 - d, and else
different ones, from (q - t)+/d and (t - q)+/d. So a run along the common draws with d_1, d_2, ...
meets its first difference at draw k with probability

    w_k = d_k prod_{j<k} (1 - d_j)

and from there on both methods go their own ways. With V the value of what a method returns,

    E[V(nabla)] - E[V(twin)] = E[ sum_k w_k (V(nabla from k) - V(twin from k)) ]

exactly, for any learning rate. A few k are drawn in proportion to w_k, so what is measured is the
chance W = sum_k w_k that the gradient changes a run at all, times what it changes then.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

from nabla_eval.engine.gradient import hard_sequence
from nabla_eval.methods.nabla import nabla
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.options import change
from nabla_eval.outcome import Outcome
from nabla_eval.probing.plan import Plan
from nabla_eval.probing.requests import Couple, Coupling
from nabla_eval.protocol import (
    Differentiate,
    Generate,
    Method,
    Part,
    Problem,
    Refine,
    Refinement,
)

Tokens: TypeAlias = tuple[int, ...]
Place: TypeAlias = tuple[Tokens, int, int]  # a response, a sweep, a position
Answers: TypeAlias = dict[Any, Any]  # what was answered to requests, so that none is made twice


class Draw(NamedTuple):
    """One draw that a run came to, and which of the coupling's keys was its own."""

    place: Place
    coupling: Coupling
    key: int


def split_runs(
    problem: Problem, config: Nabla, plan: Plan, value: Callable[[Outcome], Any]
) -> Part:
    """Return the runs of both loops on a problem as JSON: one common run a repeat, and its splits.

    `value` words what a method returns. Of each repeat: the chance `differ` that the loops differ,
    the values of both from each split on, and the draws and gradient passes of the common run.
    """
    # The first repeat is the run that the methods themselves would make.
    keys = [problem.key, *(problem.key / "repeat" / i for i in range(1, plan.repeats))]
    own = [replace(problem, key=key) for key in keys]
    return (yield from side_by_side([_split_run(each, config, plan, value) for each in own]))


def _split_run(own: Problem, config: Nabla, plan: Plan, value: Callable[[Outcome], Any]) -> Part:
    known: Answers = {}
    outcome = yield from _run(nabla(own, config), known, Couple)
    draws = used_draws(outcome, known, config.passes)
    passes = gradient_passes(draws, known)  # before `known` has what the splits ask
    weights, chance = first_differences([draw.coupling.variation for draw in draws])
    number = (own.key / "probe" / "split").uniform()
    splits = systematic(weights, plan.splits, number) if chance else []
    ends = yield from side_by_side(
        [
            _from_split(nabla(own, options), side, known, draws[: k + 1], config.passes)
            for k in splits
            for side, options in (("dto", config), ("twin", change(config, steps=0)))
        ]
    )
    values = list(map(value, ends))
    return {
        "differ": chance,
        "splits": [list(both) for both in zip(values[::2], values[1::2], strict=True)],
        "common": value(outcome),
        "draws": len(draws),
        "gradient_passes": passes,
    }


def _from_split(
    method: Method, side: str, known: Answers, draws: Sequence[Draw], passes: int
) -> Part:
    """Run a method along the common draws, and from the last of these on for itself."""
    script = {draw.place: draw.coupling.common[draw.key] for draw in draws[:-1]}
    split = draws[-1]
    script[split.place] = getattr(split.coupling, "more" if side == "dto" else "less")[split.key]
    return (yield from _run(method, known, partial(_scripted, script, side, known, passes)))


def _scripted(
    script: Mapping[Place, int], side: str, known: Answers, passes: int, request: Refine
) -> Refinement | Refine:
    """Return what a method draws: by the script, else its own side of what was coupled before."""
    tokens, keys = request.trajectory.tokens, len(request.keys)
    own = _couplings(known).get((tokens, request.position, keys))
    if own is None:
        return request
    drawn = (
        script.get((tokens, passes - keys + i, request.position), token)
        for i, token in enumerate(getattr(own, side))
    )
    return Refinement(tuple(drawn), (False,) * keys)


def _run(method: Method, known: Answers, draw: Callable[[Refine], Any]) -> Part:
    """Run a method to its end; `draw` gives a `Refinement`, or the request to ask for one."""
    results: Any = None
    while True:
        try:
            asked = method.send(results)
        except StopIteration as stop:
            return stop.value
        asked = [draw(own) if isinstance(own, Refine) else own for own in asked]
        wanted = dict.fromkeys(own for own in asked if not isinstance(own, Refinement))
        if missing := [own for own in wanted if own not in known]:
            known.update(zip(missing, (yield missing), strict=True))
        answers = [known.get(own, own) for own in asked]
        results = [_common(own) if isinstance(own, Coupling) else own for own in answers]


def _common(own: Coupling) -> Refinement:
    return Refinement(own.common, (False,) * len(own.common))


def _couplings(known: Answers) -> dict[tuple[Tokens, int, int], Coupling]:
    """Return all couplings by response, position and number of keys: one of each sweep left."""
    asked = ((own.refine, found) for own, found in known.items() if isinstance(own, Couple))
    return {(r.trajectory.tokens, r.position, len(r.keys)): found for r, found in asked}


def side_by_side(parts: Sequence[Part]) -> Part:
    """Run parts of a method at once; their results, in order.

    Responses are asked for when nothing else is left to do, so that all parts write theirs as one
    batch: a part that refines meanwhile would make the next ones wait for each other in turn.
    """
    results: list[Any] = [None] * len(parts)
    asked: dict[int, list[Any]] = {}
    answers: dict[int, list[Any] | None] = dict.fromkeys(range(len(parts)))
    while answers:
        for i, given in answers.items():
            try:
                asked[i] = parts[i].send(given)  # type: ignore[arg-type]
            except StopIteration as stop:
                results[i] = stop.value
        quick = [i for i, own in asked.items() if not any(isinstance(r, Generate) for r in own)]
        now = {i: asked.pop(i) for i in quick or list(asked)}
        found = iter((yield [request for own in now.values() for request in own]) if now else ())
        answers = {i: [next(found) for _ in own] for i, own in now.items()}
    return results


def used_draws(outcome: Outcome, known: Answers, passes: int) -> list[Draw]:
    """Return the draws that a run came to, in order: those up to each of its candidates.

    A draw for a later sweep is made beforehand, and unused where its response was replaced first.
    """
    found: list[Draw] = []
    current, start = outcome.drafts[0].tokens, (0, 0)
    couplings = _couplings(known)
    for candidate in [*outcome.candidates, *([None] if outcome.ended == "done" else [])]:
        end = (passes, 0) if candidate is None else (candidate.sweep, candidate.position)
        here = {
            (sweep, position): Draw((current, sweep, position), own, sweep - (passes - keys))
            for (tokens, position, keys), own in couplings.items()
            if tokens == current
            for sweep in range(passes - keys, passes)
            if start <= (sweep, position) <= end
        }
        found += [here[place] for place in sorted(here)]
        if candidate is not None:
            start = candidate.sweep, candidate.position + 1
            current = candidate.tokens if candidate.verdict == "accepted" else current
    assert len(found) == outcome.visited, "every draw that was used is found again"
    return found


def first_differences(variations: Sequence[float]) -> tuple[list[float], float]:
    """Return the chance of a first difference at each draw, and of any."""
    weights, alike = [], 1.0
    for variation in variations:
        weights.append(alike * variation)
        alike *= 1 - variation
    return weights, sum(weights)


def systematic(weights: Sequence[float], count: int, number: float) -> list[int]:
    """Draw `count` places in proportion to their weights, evenly spaced from one uniform number."""
    edges = list(accumulate(weights))
    last = max(i for i, weight in enumerate(weights) if weight > 0)
    marks = [(number + i) / count * edges[-1] for i in range(count)]
    return [min(bisect_right(edges, mark), last) for mark in marks]


def gradient_passes(draws: Sequence[Draw], known: Answers) -> int:
    """Return the gradient passes that ∇-Reasoner would spend on a run with these draws.

    One at each hard sequence at which its gate or a draw that is not certified needs a gradient,
    and those that flips cost at each position with such a draw.
    """
    open_ = [draw for draw in draws if not draw.coupling.certified[draw.key]]
    flips = {draw.place[::2]: draw.coupling.passes for draw in open_}
    refined = [own.refine for own in known if isinstance(own, Couple)]
    asked: list[Refine | Differentiate] = [own for own in known if isinstance(own, Differentiate)]
    asked += [own for own in refined if (own.trajectory.tokens, own.position) in flips]
    hard = {(r.trajectory.key, hard_sequence(r.trajectory, r.position, r.dto)) for r in asked}
    return len(hard) + sum(flips.values())
