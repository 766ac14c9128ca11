"""Budgets of a problem: any method, cut off before it spends more than it may.

The limit is a wrapper around the generator, so that no method counts. What fits is carried out as
the method asked for it; near the end, requests are carried out a few at a time, because what one
does not use is left for the next. Every draw is keyed, so up to the cut a limited method gives the
same tokens as an unlimited one. Not so with `max_item_seconds`: how far a method comes in a time
depends on the machine and on what else is in the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nabla_eval.cost.ledger import Ledger
from nabla_eval.errors import OutOfCalls
from nabla_eval.options import Budget
from nabla_eval.protocol import Generate, Method, Part, Problem, Refine, Request, Trajectory


@dataclass
class _Counter:
    """The rest of one budget."""

    name: str
    left: int
    most: Callable[[Request], int]  # that a request can cost
    spent: Callable[[Ledger], int]


def _counters(budget: Budget) -> list[_Counter]:
    kinds: list[tuple[str, Callable[[Request], int], Callable[[Ledger], int]]] = [
        ("max_calls", lambda request: request.most_calls, lambda cost: cost.model_calls),
        ("max_item_tokens", _longest, lambda cost: cost.generated_tokens),
    ]
    return [
        _Counter(name, getattr(budget, name), most, spent)
        for name, most, spent in kinds
        if getattr(budget, name) is not None
    ]


def _longest(request: Request) -> int:
    return request.longest if isinstance(request, Generate) else 0


def limited(method: Method, budget: Budget, clock: Callable[[], float] = time.monotonic) -> Method:
    """The same method within its budgets: calls and tokens of the ledger, and seconds.

    A response that calls or tokens do not cover is written as far as they go. Seconds count from
    when the problem is begun, what others in its batch take included; they are looked at between
    requests, so that a response which is being written is finished, and the first one always is.
    The method then gets `OutOfCalls`, and returns its best answer so far.
    """
    counters, began, seconds = _counters(budget), clock(), budget.max_item_seconds
    done: list[Any] | None = None
    spent: str | None = None
    while True:
        try:
            if spent:
                method.throw(OutOfCalls(done or [], spent))
                raise RuntimeError(f"A method asked for more after its {spent} were used up.")
            requests = next(method) if done is None else method.send(done)
        except StopIteration as stop:
            return stop.value
        first, done = done is None, []
        while len(done) < len(requests) and spent is None:
            late = seconds is not None and clock() - began >= seconds
            if late and not (first and not done):
                spent = "max_item_seconds"
            else:
                spent = yield from _carry_out(requests[len(done) :], done, counters)


def _carry_out(requests: list[Request], done: list[Any], counters: Sequence[_Counter]) -> Part:
    """Carry out the next requests that are covered; returns the name of a budget that ends it."""
    batch, tight = _covered(requests, counters)
    if not batch and isinstance(requests[0], Refine):
        refined = yield from _in_parts(requests[0], counters)
        done += [] if refined is None else [refined]
        return tight if refined is None else None
    if not batch:
        return tight
    results = yield batch
    done += results
    for counter in counters:
        counter.left -= sum(counter.spent(result.cost) for result in results)
    shortened = batch[-1] is not requests[len(batch) - 1]
    return tight if shortened and results[-1].stop == "length" else None


def _covered(
    requests: Sequence[Request], counters: Sequence[_Counter]
) -> tuple[list[Request], str | None]:
    """The first requests, as many as surely cost no more than is left, and what the next lacks.

    Where not even the first is sure to fit, and it is a response, it is asked for as far as the
    budgets go.
    """
    batch: list[Request] = []
    spare = {counter.name: counter.left for counter in counters}
    tight = None
    for request in requests:
        for counter in counters:
            spare[counter.name] -= counter.most(request)
        tight = next((name for name, left in spare.items() if left < 0), None)
        if tight is not None:
            break
        batch.append(request)
    first = requests[0]
    if batch or not isinstance(first, Generate):
        return batch, tight
    least = min(counters, key=lambda counter: counter.left)
    if least.left < 1:
        return [], least.name
    longest = first.given + least.left
    return [replace(first, problem=replace(first.problem, max_new_tokens=longest))], least.name


def _in_parts(request: Refine, counters: Sequence[_Counter]) -> Part:
    """A refinement whose greatest cost is not covered, where the cost as it turns out to be is.

    A certified draw costs nothing, and a gradient that is known is not taken again. None where the
    budget ends it; what it took until then is spent.
    """
    calls = next(counter for counter in counters if counter.name == "max_calls")
    cost = Ledger()
    (result,) = yield [replace(request, upto="certified")]
    if result.tokens[0] is not None:
        return result
    if not result.ready:
        if calls.left < 4:
            return None
        (result,) = yield [replace(request, upto="gradient")]
        cost = result.cost
        calls.left -= calls.spent(cost)
    if 4 * (request.dto.steps - 1) > calls.left:
        return None
    (result,) = yield [request]
    calls.left -= calls.spent(result.cost)
    return replace(result, cost=result.cost + cost)


def whole(problem: Problem, trajectory: Trajectory) -> bool:
    """Return whether a response ended by itself, or at the length that the problem allows."""
    return trajectory.stop in ("eos", "stop") or len(trajectory.tokens) >= problem.max_new_tokens


def collect(requests: Sequence[Request], keep: Callable[[Sequence[Any]], object]) -> Part:
    """Ask, and hand over the results: also those that came before a budget was used up."""
    try:
        results = yield list(requests)
    except OutOfCalls as cut:
        keep(cut.results)
        raise
    keep(results)


def unless_cut(part: Part) -> Part:
    """Run a part of a method that returns why it ended: the budget's name where one ended it."""
    try:
        return (yield from part)
    except OutOfCalls as cut:
        return cut.budget
