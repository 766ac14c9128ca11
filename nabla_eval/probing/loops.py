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
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias

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
    Score,
)

Tokens: TypeAlias = tuple[int, ...]
Place: TypeAlias = tuple[Tokens, int, int]  # a response, a sweep, a position


class Draw(NamedTuple):
    """One draw that a run came to, and which of the coupling's keys was its own."""

    place: Place
    coupling: Coupling
    key: int


@dataclass
class Recall:
    """What was written, scored and drawn under one key, so that nothing is asked for twice."""

    known: dict[Any, Any] = field(default_factory=dict)

    def run(self, method: Method, draw: Callable[[Refine], Any]) -> Part:
        """Run a method to its end; `draw` gives a `Refinement`, or the request to ask for one."""
        results: Any = None
        while True:
            try:
                asked = method.send(results)
            except StopIteration as stop:
                return stop.value
            chosen = [draw(own) if isinstance(own, Refine) else own for own in asked]
            names = [_name(own) for own in chosen]
            missing = {
                name: own for name, own in zip(names, chosen, strict=True)
                if name is not None and name not in self.known
            }  # fmt: skip
            if missing:
                new = yield list(missing.values())
                self.known.update(zip(missing, new, strict=True))
            found = [
                own if name is None else self.known[name]
                for name, own in zip(names, chosen, strict=True)
            ]
            results = [_as_refinement(own) if isinstance(own, Coupling) else own for own in found]

    def couplings(self) -> dict[tuple[Tokens, int], tuple[int, Coupling]]:
        """Return all couplings by response and position, each with the number of its keys."""
        found = {name[1:3]: own for name, own in self.known.items() if name[0] is Couple}
        return {place: (len(own.dto), own) for place, own in found.items()}


def _as_refinement(own: Coupling) -> Refinement:
    return Refinement(own.common, (False,) * len(own.common))


def _name(request: Any) -> tuple[Any, ...] | None:
    """Return what makes two requests of a problem the same; None for what is an answer already."""
    kind = type(request)
    if kind is Refinement:
        return None
    if kind is Generate:
        prefix = () if request.prefix is None else request.prefix.tokens[: request.keep]
        return kind, request.key, prefix, request.token
    if kind is Score:
        return kind, request.trajectory.shown, request.repeat_prompt
    if kind is Couple:
        request = request.refine
    place = request.trajectory.tokens, request.position
    if kind is Differentiate:
        return kind, *place, request.dto
    return kind, *place, request.keys, request.dto


def split_runs(
    problem: Problem, config: Nabla, plan: Plan, value: Callable[[Outcome], Any]
) -> Part:
    """Return the runs of both loops on a problem as JSON: one common run a repeat, and its splits.

    `value` words what a method returns. Of each repeat: the chance `differ` that the loops differ,
    the values of both from each split on, and the draws and gradient passes of the common run.
    """
    runs = []
    for repeat in range(plan.repeats):
        # The first repeat is the run that the methods themselves would make.
        own = problem if not repeat else replace(problem, key=problem.key / "repeat" / repeat)
        recall = Recall()  # of these keys alone
        outcome = yield from recall.run(nabla(own, config), Couple)
        draws = used_draws(outcome, recall, config.passes)
        weights, chance = first_differences([draw.coupling.variation for draw in draws])
        splits = []
        if chance:
            number = (own.key / "probe" / "split").uniform()
            for k in systematic(weights, plan.splits, number):
                both = yield from _from_split(own, config, recall, draws[: k + 1])
                splits.append([value(each) for each in both])
        runs.append(
            {
                "differ": chance,
                "splits": splits,
                "common": value(outcome),
                "draws": len(draws),
                "gradient_passes": gradient_passes(draws),
            }
        )
    return runs


def _from_split(own: Problem, config: Nabla, recall: Recall, draws: Sequence[Draw]) -> Part:
    """Run both methods along the common draws, and from the last of these on for themselves."""
    common = {draw.place: draw.coupling.common[draw.key] for draw in draws[:-1]}
    last, outcomes = draws[-1], []
    for side, options in (("dto", config), ("twin", change(config, steps=0))):
        token = (last.coupling.more if side == "dto" else last.coupling.less)[last.key]
        draw = _Scripted(side, {**common, last.place: token}, recall, config.passes)  # type: ignore[arg-type]
        outcomes.append((yield from recall.run(nabla(own, options), draw)))
    return outcomes


@dataclass(frozen=True)
class _Scripted:
    """Draws that follow a script, and beside it one of the two methods."""

    side: Literal["dto", "twin"]
    script: Mapping[Place, int]
    recall: Recall
    passes: int

    def __call__(self, request: Refine) -> Refinement | Refine:
        tokens, first = request.trajectory.tokens, self.passes - len(request.keys)
        known = self.recall.couplings().get((tokens, request.position))
        if known is None or known[0] != len(request.keys):
            return request
        own: tuple[int, ...] = getattr(known[1], self.side)
        drawn = tuple(
            self.script.get((tokens, first + i, request.position), token)
            for i, token in enumerate(own)
        )
        return Refinement(drawn, (False,) * len(drawn))


def used_draws(outcome: Outcome, recall: Recall, passes: int) -> list[Draw]:
    """Return the draws that a run came to, in order: those up to each of its candidates.

    A draw for a later sweep is made beforehand, and unused where its response was replaced first.
    """
    found: list[Draw] = []
    current, start = outcome.drafts[0].tokens, (0, 0)
    ends: list[Any] = [*outcome.candidates, *([None] if outcome.ended == "done" else [])]
    couplings = recall.couplings()
    for candidate in ends:
        end = (passes, 0) if candidate is None else (candidate.sweep, candidate.position)
        here = sorted(
            (sweep, position, coupling, sweep - (passes - keys))
            for (tokens, position), (keys, coupling) in couplings.items()
            if tokens == current
            for sweep in range(passes - keys, passes)
            if start <= (sweep, position) <= end
        )
        found += [Draw((current, s, position), own, key) for s, position, own, key in here]
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


def gradient_passes(draws: Sequence[Draw]) -> int:
    """Return the gradient passes that ∇-Reasoner would spend on these draws.

    One for each response with a draw that is not certified, and those that flips cost at each
    position with such a draw.
    """
    open_ = [draw for draw in draws if not draw.coupling.certified[draw.key]]
    flips = {draw.place[::2]: draw.coupling.passes for draw in open_}
    return len({draw.place[0] for draw in open_}) + sum(flips.values())
