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
    found = []
    if budget.max_calls is not None:
        calls = budget.max_calls
        found.append(_Counter("max_calls", calls, lambda r: r.most_calls, lambda c: c.model_calls))
    if budget.max_item_tokens is not None:
        tokens = budget.max_item_tokens
        found.append(_Counter("max_item_tokens", tokens, _written, lambda c: c.generated_tokens))
    return found


def limited(method: Method, budget: Budget, clock: Callable[[], float] = time.monotonic) -> Method:
    """The same method within its budgets: calls and tokens of the ledger, and seconds.

    A response that calls or tokens do not cover is written as far as they go. Seconds count from
    when the problem is begun, what others in its batch take included; they are looked at between
    requests, so that a response which is being written is finished, and the first one always is.
    The method then gets `OutOfCalls`, and returns its best answer so far.
    """
    counters, began = _counters(budget), clock()
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
        begun, done = done is not None, []
        while len(done) < len(requests) and spent is None:
            asked = requests[len(done) :]
            late = budget.max_item_seconds is not None and (
                clock() - began >= budget.max_item_seconds
            )
            if late and (begun or done):
                spent = "max_item_seconds"
                break
            batch, tight = _covered(asked, counters)
            if not batch and isinstance(asked[0], Refine):
                refined = yield from _in_parts(asked[0], counters)
                if refined is not None:
                    done.append(refined)
                    continue
            results = (yield batch) if batch else []
            for counter in counters:
                counter.left -= sum(counter.spent(result.cost) for result in results)
            done += results
            shortened = bool(batch) and batch[-1] is not asked[len(batch) - 1]
            if not batch or (shortened and results[-1].stop == "length"):
                spent = tight


def _covered(
    requests: Sequence[Request], counters: Sequence[_Counter]
) -> tuple[list[Request], str | None]:
    """The first requests, as many as surely cost no more than is left, and what the next lacks.

    Where not even the first is sure to fit, and it is a response, it is asked for as far as the
    budgets go.
    """
    batch: list[Request] = []
    spare = [counter.left for counter in counters]
    for request in requests:
        spare = [left - c.most(request) for left, c in zip(spare, counters, strict=True)]
        tight = next((c.name for left, c in zip(spare, counters, strict=True) if left < 0), None)
        if tight is not None:
            break
        batch.append(request)
    else:
        return batch, None
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
    cost, left = Ledger(), next(c for c in counters if c.name == "max_calls")
    (result,) = yield [replace(request, upto="certified")]
    if result.tokens[0] is not None:
        return result
    if not result.ready:
        if left.left < 4:
            return None
        (result,) = yield [replace(request, upto="gradient")]
        cost = result.cost
        left.left -= left.spent(cost)
    if 4 * (request.dto.steps - 1) > left.left:
        return None
    (result,) = yield [request]
    left.left -= left.spent(result.cost)
    return replace(result, cost=result.cost + cost)


def _written(request: Request) -> int:
    """The most tokens that a request can write."""
    return request.longest if isinstance(request, Generate) else 0


def whole(problem: Problem, trajectory: Trajectory) -> bool:
    """Return whether a response ended by itself, or at the length that the problem allows."""
    return trajectory.stop in ("eos", "stop") or len(trajectory.tokens) >= problem.max_new_tokens


def collect(requests: list[Request], found: list[Any]) -> Part:
    """Yield requests and append their results, also those that came before the calls ran out."""
    try:
        results = yield requests
    except OutOfCalls as cut:
        found += cut.results
        raise
    found += results
    return results


def unless_cut(part: Part) -> Part:
    """Run a part of a method that returns why it ended: the budget's name where one ended it."""
    try:
        return (yield from part)
    except OutOfCalls as cut:
        return cut.budget
