"""Advance many problems at once: one generator each, one batch of requests a round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from nabla_eval.cost.ledger import Ledger
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


def drive(
    methods: Iterable[Method],
    execute: Execute,
    width: int = 32,
    done: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome]:
    """Run methods to their outcomes, at most `width` of them at a time.

    Each round collects what the active methods ask for, executes it together, and sends every
    method its own results; when one finishes, the next is admitted. `done(index, outcome)` is
    called as each finishes, in no particular order. Outcomes come back in the order of `methods`,
    each with the ledger of what its own requests cost (a method may have put shares of it there).
    """
    outcomes: dict[int, Outcome] = {}

    def advance(active: _Active, results: list[Any] | None) -> bool:
        """Resume one generator; False when it has returned."""
        try:
            active.pending = next(active.method) if results is None else active.method.send(results)
            return True
        except StopIteration as stop:
            outcome = replace(stop.value, ledger=stop.value.ledger + active.ledger)
            outcomes[active.index] = outcome
            if done is not None:
                done(active.index, outcome)
            return False

    waiting = enumerate(methods)
    running: list[_Active] = []
    while True:
        while len(running) < width and (entry := next(waiting, None)) is not None:
            active = _Active(entry[0], entry[1], [])
            if advance(active, None):
                running.append(active)
        if not running:
            return [outcomes[i] for i in sorted(outcomes)]
        results = execute([request for active in running for request in active.pending])
        start, still = 0, []
        for active in running:
            own = results[start : start + len(active.pending)]
            start += len(active.pending)
            active.charge(own)
            if advance(active, own):
                still.append(active)
        running = still
