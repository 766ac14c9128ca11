"""Rollouts here, on a server that is waited for, and on one that writes while models run here.

No GPU is needed: what methods ask for and what comes back is the engine's own work on the embedded
pair, and a virtual clock says what it would take for models of 7.6 and 4 billion parameters. Each
token stands for `STRETCH`. A decode step or a pass takes `OVERHEAD`, and the longer of reading the
weights once and of its operations. Prefills and the reading of keys and values are left out, of
all three alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.rollout import rollout
from nabla_eval.methods.registry import configure, start
from nabla_eval.models.pair import Pair
from nabla_eval.protocol import Generate, Problem, Score

POLICY, REWARD = 7.6e9, 4.0e9  # parameters: Qwen2.5-7B, and a Qwen3-4B reward model
# An H100 SXM's data sheet: 3.35 TB/s, and 990 TFLOP/s in bf16, of which half is reached.
BANDWIDTH, FLOPS, OVERHEAD = 3.35e12, 0.5 * 990e12, 2e-3
STRETCH = 40  # 12 tokens of the embedded task for some 500 of a mathematical one

PLACES = ("here", "in turns", "overlapped")


def step(parameters: float, rows: float) -> float:
    """Return the seconds of one forward pass over as many tokens, in bf16."""
    return OVERHEAD + max(2 * parameters / BANDWIDTH, 2 * parameters * rows / FLOPS)


class Simulated(Executor):
    """An engine whose `now` is what real models would have taken, with rollouts at a place."""

    def __init__(self, pair: Pair, place: str) -> None:
        super().__init__(pair)
        self.place, self.now = place, 0.0
        self.rollout = self

    def decoder(self) -> Writing:
        """Return where responses are written."""
        return Writing(self)

    def run(self, requests: list[Any], early: bool = False) -> list[Any]:
        """Answer requests, and let the clock run for the pass that it took."""
        results = super().run(requests, early)
        flops = sum(result.cost.flops for result in results if result is not None)
        if flops:
            scores = isinstance(requests[0], Score)
            own = self.pair.judge.parameters + (0 if scores else self.pair.policy.parameters)
            real = REWARD if scores else REWARD + POLICY
            self.now += step(real, STRETCH * flops / (2 * own))
        return results


class Writing:
    """Responses under way; they are known at once, and handed out when their time has come."""

    def __init__(self, engine: Simulated) -> None:
        self.engine = engine
        self._now = 0.0  # of the server
        self._rows: list[list[Any]] = []  # ticket, trajectory, tokens left
        self._done: list[tuple[float, Any, Any]] = []

    def add(self, requests: Sequence[tuple[Any, Generate]]) -> None:
        """Begin to write."""
        if not self._rows:
            self._now = max(self._now, self.engine.now)
        self._write_until(self.engine.now)
        found = rollout(self.engine.pair.policy, [request for _, request in requests])
        for (ticket, _), trajectory in zip(requests, found, strict=True):
            self._rows.append([ticket, trajectory, STRETCH * trajectory.cost.generated_tokens])

    def run(self) -> list[tuple[Any, Any]]:
        """Wait for some responses: the first, or all of them where they are written in turns."""
        engine = self.engine
        if engine.place == "in turns":
            self._write_until(float("inf"))
        else:
            self._write_until(engine.now)
            while not self._done:
                self._write_once()
        done, self._done = self._done, []
        engine.now = max(engine.now, *(when for when, _, _ in done))
        if engine.place != "here":  # what the server wrote is read here
            read = sum(len(trajectory.tokens) for _, _, trajectory in done)
            engine.now += step(POLICY, STRETCH * read)
        return [(ticket, trajectory) for _, ticket, trajectory in done]

    def close(self) -> None:
        """Forget what is under way."""
        self._rows, self._done = [], []

    def _write_until(self, time: float) -> None:
        """On a server, time passes while models run here."""
        if self.engine.place == "here":
            self._now = self.engine.now
            return
        while self._rows and self._now < time:
            self._write_once()

    def _write_once(self) -> None:
        """Write as many tokens in all rows as the shortest lacks."""
        least = min(left for *_, left in self._rows)
        self._now += least * step(POLICY, len(self._rows))
        for row in self._rows:
            row[2] -= least
        self._done += [(self._now, *row[:2]) for row in self._rows if row[2] <= 0]
        self._rows = [row for row in self._rows if row[2] > 0]


def seconds(
    pair: Pair, problems: Sequence[Problem], place: str, method: str, width: int, **options: Any
) -> float:
    """Return the simulated seconds of a method on all problems, `width` in flight."""
    engine = Simulated(pair, place)
    config = configure(method, options)
    drive_all([start(problem, config) for problem in problems], engine, width)
    return engine.now
