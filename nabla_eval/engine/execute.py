"""Executes whatever methods ask for, grouped by kind and cut into micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from nabla_eval.engine.batching import in_batches
from nabla_eval.engine.gradient import gradients
from nabla_eval.engine.refine import free_rows, refine
from nabla_eval.engine.replay import compose, replay
from nabla_eval.engine.rollout import rollout
from nabla_eval.engine.score import score
from nabla_eval.models.pair import Pair
from nabla_eval.requests import (
    Compose,
    Differentiate,
    Generate,
    Problem,
    Refine,
    Replay,
    Request,
    Score,
    Trajectory,
)

Rollout = Callable[[list[Generate]], list[Trajectory]]

_ROW_ELEMENTS = 2**25  # of free rows x V that DTO holds at once, several times over


class Executor:
    """Runs requests on a local pair; call it with a list of requests, get results in order.

    `max_batch_tokens` bounds the padded tokens of one micro-batch: for a decode batch those it may
    come to hold, prompt and `max_new_tokens`. A batch that does not fit in memory is halved.
    `chat` are options of the policy's chat template, for the questions that methods ask it.
    `rollout` answers `Generate` in place of the local decode loop, as `engine.vllm` does.
    """

    def __init__(
        self,
        pair: Pair,
        max_batch_tokens: int = 2**17,
        chat: Mapping[str, Any] | None = None,
        rollout: Rollout | None = None,
    ) -> None:
        self.pair = pair
        self.max_batch_tokens = max_batch_tokens
        self.chat = dict(chat or {})
        self.rollout = rollout

    def __call__(self, requests: list[Request]) -> list[Any]:
        groups: dict[Hashable, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(_group(request), []).append(i)
        results: list[Any] = [None] * len(requests)
        for indices in groups.values():
            outputs = self._run([requests[i] for i in indices])
            for i, output in zip(indices, outputs, strict=True):
                results[i] = output
        return results

    def _run(self, requests: list[Any]) -> list[Any]:
        if self.rollout is not None and isinstance(requests[0], Generate):
            return self.rollout(requests)
        run, length, budget = self._plan(requests[0])
        return in_batches(run, requests, length, budget)

    def _plan(self, request: Request) -> tuple[Callable, Callable[[Any], int], int]:
        """How a kind of request is run, the length of one, and the budget of a micro-batch."""
        pair, budget = self.pair, self.max_batch_tokens
        match request:
            case Generate():
                return lambda batch: rollout(pair.policy, batch), _generated_length, budget
            case Score():
                return lambda batch: score(pair.judge, batch), _length, budget
            case Differentiate():
                return lambda batch: gradients(pair, batch), _length, budget
            case Refine():
                rows = max(1, _ROW_ELEMENTS // pair.policy.vocabulary)
                return lambda batch: refine(pair, batch), lambda r: len(free_rows(r)), rows
            case Compose():
                return lambda batch: compose(pair.policy, batch, self.chat), lambda _: 1, budget
            case Replay():
                return lambda batch: replay(pair.policy, batch), _replayed_length, budget
        raise TypeError(f"{type(request).__name__} is not a request that the engine knows.")


def _group(request: Request) -> Hashable:
    """Requests of one group can share a batch."""
    match request:
        case Differentiate():
            return (Differentiate, request.objective, request.norm, request.temperature)
        case Refine():
            return (Refine, request.dto, request.relaxation)
    return (type(request),)


def _generated_length(request: Generate) -> int:
    return len(request.problem.prompt) + request.keep + request.longest


def _replayed_length(request: Replay) -> int:
    before = 0 if request.prefix is None else len(request.prefix.tokens)
    return len(request.problem.prompt) + before + len(request.text.encode())  # at most as many


def _frame_length(problem: Problem) -> int:
    return len(problem.frame.before) + len(problem.frame.after)


def _length(request: Score | Differentiate) -> int:
    problem = request.problem
    return len(request.trajectory.tokens) + max(len(problem.prompt), _frame_length(problem))
