"""Advance many problems at once: one generator each, and an engine that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from nabla_eval.cost.ledger import Ledger
from nabla_eval.errors import Fault
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import Generate, Method, Request

Execute = Callable[[list[Request]], list[Any]]


@runtime_checkable
class EngineSession(Protocol):
    """An engine at work on many lists of requests at once."""

    def submit(self, ticket: int, requests: list[Any]) -> None:
        """Add a list of requests."""

    def collect(self) -> list[tuple[int, list[Any]]]:
        """Wait until some list is answered; the tickets and results of those that are."""

    def close(self) -> None:
        """Give up what is under way."""


class Rounds:
    """The session of a plain function: all that was submitted is executed together."""

    def __init__(self, execute: Execute) -> None:
        self.execute = execute
        self._submitted: list[tuple[int, list[Any]]] = []

    def submit(self, ticket: int, requests: list[Any]) -> None:
        """Add a list of requests."""
        self._submitted.append((ticket, requests))

    def collect(self) -> list[tuple[int, list[Any]]]:
        """Execute all lists as one."""
        submitted, self._submitted = self._submitted, []
        results = iter(self.execute([request for _, own in submitted for request in own]))
        return [(ticket, [next(results) for _ in own]) for ticket, own in submitted]

    def close(self) -> None:
        """Nothing is under way between two calls."""


@dataclass
class _Active:
    index: int
    method: Method
    pending: list[Request] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)

    def advance(self, session: EngineSession, results: list[Any] | None) -> Outcome | Fault | None:
        """Resume the generator and submit what it asks for; return its end if it has come."""
        fault = next((result for result in results or [] if isinstance(result, Fault)), None)
        if fault is not None:
            self.method.close()
            return fault
        try:
            if results is None:
                self.pending = next(self.method)
            else:
                self._charge(results)
                self.pending = self.method.send(results)
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return replace(outcome, ledger=outcome.ledger + self.ledger)
        session.submit(self.index, self.pending)
        return None

    def _charge(self, results: list[Any]) -> None:
        """Add what the results cost; what ran side by side counts once towards the chain."""
        for result in results:
            self.ledger.add(result.cost)
        self.ledger.parallel_tokens += max(
            (
                result.cost.generated_tokens
                for request, result in zip(self.pending, results, strict=True)
                if isinstance(request, Generate)
            ),
            default=0,
        )


def drive(
    methods: Iterable[Method], execute: Execute, width: int = 32
) -> Iterator[tuple[int, Outcome | Fault]]:
    """Run methods to their ends, at most `width` at a time; yield each one's index and end.

    `execute` answers a list of requests. Where it has a `session()`, as `Executor` has, a method
    goes on as soon as its own requests are answered; a plain function answers in rounds what all
    active methods ask for. When a method finishes, the next is admitted. Ends come in no particular
    order: an `Outcome` with the ledger of what the method's own requests cost (a method may have
    put shares of it there), or the `Fault` that one of its requests came back as.
    """
    session: EngineSession = execute.session() if hasattr(execute, "session") else Rounds(execute)
    running: dict[int, _Active] = {}
    waiting = enumerate(methods)
    with closing(session):
        while True:
            while len(running) < width and (entry := next(waiting, None)) is not None:
                active = _Active(*entry)
                outcome = active.advance(session, None)
                if outcome is None:
                    running[active.index] = active
                else:
                    yield active.index, outcome
            if not running:
                return
            for index, results in session.collect():
                end = running[index].advance(session, results)
                if end is not None:
                    del running[index]
                    yield index, end


def drive_all(methods: Iterable[Method], execute: Execute, width: int = 32) -> list[Outcome]:
    """Outcomes in the order of `methods`. Raises the error of the first fault."""
    outcomes: dict[int, Outcome] = {}
    for index, end in drive(methods, execute, width):
        if isinstance(end, Fault):
            raise end.error
        outcomes[index] = end
    return [outcomes[index] for index in sorted(outcomes)]
