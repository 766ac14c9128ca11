"""Advance many problems at once: one generator each, and an engine that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from nabla_eval.cost.ledger import Ledger
from nabla_eval.errors import Fault
from nabla_eval.requests import Generate, Method, Outcome, Request

Execute = Callable[[list[Request]], list[Any]]


@dataclass
class _Active:
    index: int
    method: Method
    pending: list[Request]
    ledger: Ledger = field(default_factory=Ledger)

    def charge(self, results: list[Any]) -> None:
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


class Session(Protocol):
    """An engine at work on many lists of requests at once."""

    def submit(self, ticket: int, requests: list[Any]) -> None:
        """Add a list of requests."""

    def collect(self) -> list[tuple[int, list[Any]]]:
        """Wait until some list is answered; the tickets and results of those that are."""


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


def drive(
    methods: Iterable[Method],
    execute: Execute,
    width: int = 32,
    done: Callable[[int, Outcome], None] | None = None,
    failed: Callable[[int, Exception], None] | None = None,
) -> list[Outcome]:
    """Run methods to their outcomes, at most `width` of them at a time.

    `execute` answers a list of requests. Where it has a `session()`, as `Executor` has, a method
    goes on as soon as its own requests are answered; a plain function answers in rounds what all
    active methods ask for. When a method finishes, the next is admitted. `done(index, outcome)` is
    called as each finishes, in no particular order. Outcomes come back in the order of `methods`,
    each with the ledger of what its own requests cost (a method may have put shares of it there).

    A method one of whose requests comes back as a `Fault` ends there, without an outcome, and
    `failed(index, error)` is called; where nobody listens, the error is raised.
    """
    session: Session = execute.session() if hasattr(execute, "session") else Rounds(execute)
    outcomes: dict[int, Outcome] = {}
    running: dict[int, _Active] = {}

    def advance(active: _Active, results: list[Any] | None) -> None:
        """Resume one generator, and submit what it asks for."""
        try:
            active.pending = next(active.method) if results is None else active.method.send(results)
        except StopIteration as stop:
            running.pop(active.index, None)
            outcome = replace(stop.value, ledger=stop.value.ledger + active.ledger)
            outcomes[active.index] = outcome
            if done is not None:
                done(active.index, outcome)
            return
        running[active.index] = active
        session.submit(active.index, active.pending)

    waiting = enumerate(methods)
    while True:
        while len(running) < width and (entry := next(waiting, None)) is not None:
            advance(_Active(*entry, []), None)
        if not running:
            return [outcomes[i] for i in sorted(outcomes)]
        for index, results in session.collect():
            fault = next((result for result in results if isinstance(result, Fault)), None)
            if fault is None:
                running[index].charge(results)
                advance(running[index], results)
                continue
            if failed is None:
                raise fault.error
            running.pop(index).method.close()
            failed(index, fault.error)
