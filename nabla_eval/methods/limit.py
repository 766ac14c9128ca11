"""`max_calls`: any method, cut off before it spends more model calls than it may.

The limit is a wrapper around the generator, so that no method counts. What fits is carried out as
the method asked for it; near the end, requests are carried out a few at a time, because what one
does not use is left for the next. Every draw is keyed, so up to the cut a limited method gives the
same tokens as an unlimited one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nabla_eval.errors import OutOfCalls
from nabla_eval.requests import (
    Certify,
    Compose,
    Differentiate,
    Generate,
    Method,
    Part,
    Problem,
    Refine,
    Request,
    Tilt,
    Trajectory,
    Weigh,
)


def limited(method: Method, max_calls: int) -> Method:
    """The same method with at most `max_calls` model calls (the ledger's; at least 1).

    A response that the calls do not cover is written as far as they go. The method then gets
    `OutOfCalls`, and returns its best answer so far.
    """
    left = max_calls
    done: list[Any] | None = None
    cut = False
    while True:
        try:
            if cut:
                method.throw(OutOfCalls(done or []))
                raise RuntimeError("A method asked for more after its max_calls were used up.")
            requests = next(method) if done is None else method.send(done)
        except StopIteration as stop:
            return stop.value
        done = []
        while len(done) < len(requests) and not cut:
            asked = requests[len(done) :]
            batch = _covered(asked, left)
            results = (yield batch) if batch else []
            left -= sum(result.cost.model_calls for result in results)
            done += results
            shortened = bool(batch) and batch[-1] is not asked[len(batch) - 1]
            cut = not batch or (shortened and results[-1].stop == "length")


def _covered(requests: Sequence[Request], left: int) -> list[Request]:
    """The first requests, as many as surely cost no more than is left.

    Where not even the first is sure to fit, and it is a response, it is asked for as far as the
    calls go.
    """
    batch: list[Request] = []
    spare = left
    for request in requests:
        spare -= _most(request)
        if spare < 0:
            break
        batch.append(request)
    first = requests[0]
    if batch or left < 1 or not isinstance(first, Generate):
        return batch
    return [replace(first, problem=replace(first.problem, max_new_tokens=first.given + left))]


def _most(request: Request) -> int:
    """The most model calls that a request can cost."""
    match request:
        case Generate():
            return request.longest
        case Differentiate():
            return 4
        case Refine():
            # The first gradient is given; each later step takes one more at most.
            return 4 * max(0, request.dto.steps - 1)
        case Weigh():
            return max(0, min(request.stop, request.keep) - request.first)
        case Tilt():
            return 2
        case Compose() | Certify():
            return 0
    return 1


def whole(problem: Problem, trajectory: Trajectory) -> bool:
    """Whether a response ended by itself, or at the length that the problem allows."""
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
    """Run a part of a method that returns why it ended; "max_calls" where they ended it."""
    try:
        return (yield from part)
    except OutOfCalls:
        return "max_calls"
