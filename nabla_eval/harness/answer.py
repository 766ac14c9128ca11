"""Answer problems: drive the method, write the trace, pick up what a stopped run left."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from nabla_eval.engine.drive import Execute, drive
from nabla_eval.errors import DataError, Fault, ItemError
from nabla_eval.harness.arguments import Arguments
from nabla_eval.harness.metrics import NablaResponse
from nabla_eval.methods.registry import start
from nabla_eval.models.pair import Policy
from nabla_eval.options import Steps
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import Method, Problem
from nabla_eval.terminal import LOGGER
from nabla_eval.traces import Record, TraceWriter, record, trace_path, unlike
from nabla_eval.traces.index import entries
from nabla_eval.traces.observe import Observed
from nabla_eval.traces.read import written

SHOWN = 5  # failed items that the closing message names
Work = tuple[Problem, Any]  # a problem and its method's options


@dataclass(frozen=True)
class Answerer:
    """Everything that the answers to a list of problems depend on, and how they are reported."""

    arguments: Arguments
    policy: Policy
    models: Mapping[str, Any]  # what traces tell models apart by
    execute: Execute
    width: int = 32  # problems that are active at once
    rank: int = 0
    ranks: int = 1  # processes that share the problems, each with a shard of its own in trace_dir

    def __call__(self, work: Sequence[Work]) -> Generator[tuple[int, NablaResponse, bool]]:
        """Yield place, response and whether it was stored, first the stored ones, as each is ready.

        With `trace_dir`, each answer is on disk before it is yielded, and answers that the folder
        holds already are taken from there. Raises `DataError` where it holds another run.

        Items that fail do not keep others from being answered. In the end they raise `ItemError`;
        with `allow_errors` they are answered by an empty response whose stats say `failed`.
        """
        faults = Faults(self.arguments)
        began: dict[int, float] = {}
        seen: dict[int, Observed] = {}
        stops: set[str] = set()  # of all steps of all searches
        folder = self.arguments.trace_dir
        with ExitStack() as stack:
            writer = None  # first: who holds it may trust what the folder holds
            if folder is not None:
                writer = stack.enter_context(TraceWriter(trace_path(folder, self.rank)))
            stored = self._stored(work)
            for index, response in stored.items():
                yield index, response, True
            left = [index for index in range(len(work)) if index not in stored]

            def method(index: int) -> Method:
                began[index] = time.perf_counter()  # when it is admitted
                begun = start(*work[index])
                if writer is not None:
                    seen[index] = Observed()
                    begun = seen[index].watch(begun)
                return (yield from begun)

            answered = len(stored)
            for place, end in drive(map(method, left), self.execute, self.width):
                index, problem = left[place], work[left[place]][0]
                observed = seen.pop(index, None)
                answered += 1
                if isinstance(end, Fault):
                    faults.add(problem.id, end.error, answered)
                    response = NablaResponse("", {"id": problem.id, "failed": str(end.error)})
                else:
                    stops.update(step.stop for step in end.steps)
                    seconds = time.perf_counter() - began[index]
                    if writer is not None:
                        writer.write(self._record(*work[index], end, seconds, observed))
                    response = self._response(problem, end.text, end.stats(), seconds)
                yield index, response, False
        if isinstance(self.arguments.config, Steps) and stops and "step" not in stops:
            LOGGER.warning(_NO_DELIMITER, self.arguments.config.step)
        faults.close(answered)

    def _stored(self, work: Sequence[Work]) -> dict[int, NablaResponse]:
        """Return the responses that `trace_dir` holds already, by place."""
        folder, method = self.arguments.trace_dir, self.arguments.method
        if folder is None or not written(folder):
            return {}
        places: dict[str, list[int]] = {}  # several for a prompt that is asked again without a task
        for index, (problem, _) in enumerate(work):
            places.setdefault(problem.id, []).append(index)
        found = {}
        for entry in entries(folder, growing=self.ranks > 1):
            for index in places.get(entry["id"], ()):
                problem, config = work[index]
                if differences := unlike(entry, problem, method, config, self.models):
                    raise DataError(
                        f"trace_dir={folder} holds {problem.id} of another run ("
                        f"{'; '.join(differences)}). Choose another trace_dir, or remove that one."
                    )
                text, stats = entry["outcome"]["text"], entry["stats"]
                found[index] = self._response(problem, text, stats, entry["seconds"])
        return dict(sorted(found.items()))

    def _record(
        self,
        problem: Problem,
        config: Any,
        outcome: Outcome,
        seconds: float,
        observed: Observed | None,
    ) -> Record:
        def decode(tokens: Sequence[int]) -> str:
            return self.policy.decode(tokens, special=True)

        return record(
            problem, self.arguments.method, config, outcome, seconds, lambda token: decode([token]),
            decode, models=self.models, observed=observed,
        )  # fmt: skip

    def _response(
        self, problem: Problem, text: str, stats: Mapping[str, Any], seconds: float
    ) -> NablaResponse:
        """Return the response without its thoughts; a thought that never ends is no answer."""
        answer = text if problem.thought is None else problem.thought.answer(text)
        more = {"id": problem.id, "method": self.arguments.method, "seconds": seconds}
        return NablaResponse(answer, {**stats, **more})


_NO_DELIMITER = (
    "No response held a step delimiter (step=%s): each was one step, so the search chose between "
    "whole responses. Another step=, such as semicolon or newline, may fit the task."
)


class Faults:
    """The failed items of one run."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.errors: dict[str, Exception] = {}

    def add(self, item: str, error: Exception, answered: int) -> None:
        """Note that an item failed.

        Raises `ItemError` where more have than `max_errors`: what is wrong with them is likely
        wrong with the rest.
        """
        self.errors[item] = error
        LOGGER.error("%s failed and is left out: %s: %s", item, type(error).__name__, error)
        if len(self.errors) > self.arguments.max_errors:
            raise ItemError(
                f"Stopped early: {self._words(answered)} More than max_errors="
                f"{self.arguments.max_errors} are a sign that the rest would fail too. "
                f"{self._advice()}"
            ) from error

    def close(self, answered: int) -> None:
        """Say what failed, in the end. Raises `ItemError` unless `allow_errors` is set."""
        if not self.errors:
            return
        words = self._words(answered)
        if not self.arguments.allow_errors:
            raise ItemError(
                f"{words} {self._advice()} With allow_errors=true the run ends without them: they "
                "have no score, and `failed` counts them."
            ) from next(iter(self.errors.values()))
        LOGGER.warning(
            "%s They have no score in nabla_eval's tasks, where `failed` counts them; tasks of "
            "others grade them as empty answers.",
            words,
        )

    def _words(self, answered: int) -> str:
        words = [f"{item}: {type(e).__name__}: {e}" for item, e in self.errors.items()]
        end = "; ..." if words[SHOWN:] else "."
        return f"{len(words)} of {answered} items failed: {'; '.join(words[:SHOWN])}{end}"

    def _advice(self) -> str:
        folder = self.arguments.trace_dir
        if self.arguments.dry:
            return "A dry run keeps no answers."
        if folder is None:
            return "Name a trace_dir=, and a second attempt need not answer the others again."
        return f"The others are in {folder}: the same command tries only these again."
