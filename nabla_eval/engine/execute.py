"""Executes whatever methods ask for, grouped by kind and cut into micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from nabla_eval.engine.batching import in_batches
from nabla_eval.engine.cache import Pasts
from nabla_eval.engine.gradient import affordable, gradients
from nabla_eval.engine.guide import row_limit, tilt, weigh
from nabla_eval.engine.refine import certify, free_rows, refine
from nabla_eval.engine.replay import compose, replay
from nabla_eval.engine.rollout import Decoder
from nabla_eval.engine.score import grows, score
from nabla_eval.errors import Fault, ServerError
from nabla_eval.models.pair import Pair
from nabla_eval.requests import (
    Certify,
    Compose,
    Differentiate,
    Generate,
    Problem,
    Refine,
    Replay,
    Request,
    Score,
    Tilt,
    Trajectory,
    Weigh,
)

Rollout = Callable[[list[Generate]], list[Trajectory | Fault]]
Place = tuple[int, int]  # ticket, and place in its list

_ROW_ELEMENTS = 2**25  # of free rows x V that DTO holds at once, several times over

_ORDER = (
    Compose, Replay, Score, Certify, Differentiate, Refine, Weigh, Tilt, Generate,
)  # fmt: skip


class Executor:
    """Runs requests on a local pair; call it with a list of requests, get results in order.

    A call raises the error of the first request that cannot be answered; in a `session` it comes
    back as a `Fault` in the request's place.

    `max_batch_tokens` bounds the padded tokens of one micro-batch: for a decode batch those it may
    come to hold, prompt and `max_new_tokens`. A batch that does not fit in memory is halved.
    `max_past_tokens` bounds the tokens whose keys and values are kept for what goes on from them,
    of the policy and half as many of the reward model, beside those of the running batch; by
    default as many as `max_batch_tokens`. Beyond it, after memory ran out, and for models whose
    attention is not full everywhere, prefixes are encoded again.
    `chat` are options of the policy's chat template, for the questions that methods ask it.
    `rollout` answers `Generate` in place of the local decode loop, as `engine.vllm` does.
    """

    def __init__(
        self,
        pair: Pair,
        max_batch_tokens: int = 2**17,
        chat: Mapping[str, Any] | None = None,
        rollout: Rollout | None = None,
        max_past_tokens: int | None = None,
    ) -> None:
        self.pair = pair
        self.max_batch_tokens = max_batch_tokens
        self.chat = dict(chat or {})
        self.rollout = rollout
        kept = max_batch_tokens if max_past_tokens is None else max_past_tokens
        self.pasts, self.reward_pasts = Pasts(kept), Pasts(kept // 2)

    def __call__(self, requests: list[Request]) -> list[Any]:
        session = self.session()
        session.submit(0, requests)
        ((_, results),) = session.collect() if requests else [(0, [])]
        for result in results:
            if isinstance(result, Fault):
                raise result.error
        return results

    def session(self) -> Session:
        """Work on many lists of requests at once, each answered when it is ready."""
        return Session(self)

    def run(self, requests: list[Any]) -> list[Any]:
        """Results of requests of one group, but for rollouts of the local decode loop."""
        run, length, budget = self._plan(requests[0])
        return in_batches(run, requests, length, budget, self.relieve)

    def relieve(self) -> None:
        """Drop what is kept of prefixes."""
        self.pasts.clear()
        self.reward_pasts.clear()

    def _plan(self, request: Request) -> tuple[Callable, Callable[[Any], int], int]:
        """How a kind of request is run, the length of one, and the budget of a micro-batch."""
        pair, budget = self.pair, self.max_batch_tokens
        match request:
            case Score():
                # Where keys and values are made, a batch also holds those of all its tokens.
                tokens = max(1, budget // 4) if grows(request) else budget
                return lambda batch: score(pair.judge, batch, self.reward_pasts), _length, tokens
            case Differentiate():
                tokens = min(budget, affordable(pair))
                return lambda batch: gradients(pair, batch), _length, tokens
            case Refine():
                rows = max(1, _ROW_ELEMENTS // pair.policy.vocabulary)
                return lambda batch: refine(pair, batch), lambda r: len(free_rows(r)), rows
            case Certify():
                rows = max(1, _ROW_ELEMENTS // pair.policy.vocabulary)
                return lambda batch: certify(pair, batch), lambda _: 1, rows
            case Weigh() | Tilt():
                guide: Callable = weigh if isinstance(request, Weigh) else tilt
                # Each also takes a row of V numbers, of which a batch holds so many at most.
                least = budget // row_limit(pair)
                return (
                    lambda batch: guide(pair, batch, self.reward_pasts),
                    lambda one: max(least, _guided_length(one)),
                    budget,
                )
            case Compose():
                return lambda batch: compose(pair.policy, batch, self.chat), lambda _: 1, budget
            case Replay():
                return lambda batch: replay(pair.policy, batch), _replayed_length, budget
        raise TypeError(f"{type(request).__name__} is not a request that the engine knows.")


class Session:
    """Lists of requests under way, each with a ticket (an integer).

    Rollouts run in one decode batch that rows enter and leave. What else is asked for comes first,
    kind by kind in the order in which methods go through them, so that each kind is run for as many
    problems at once as ask for it.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.decoder = Decoder(
            executor.pair.policy,
            executor.max_batch_tokens,
            executor.pasts,
            relieve=executor.relieve,
        )
        self._results: dict[int, list[Any]] = {}
        self._left: dict[int, int] = {}  # requests of a ticket that are not answered
        self._waiting: dict[type, list[tuple[Place, Any]]] = {kind: [] for kind in _ORDER}

    def submit(self, ticket: int, requests: list[Request]) -> None:
        """Add a list of requests."""
        self._results[ticket] = [None] * len(requests)
        self._left[ticket] = len(requests)
        for i, request in enumerate(requests):
            if type(request) not in self._waiting:
                raise TypeError(f"{type(request).__name__} is not a request that the engine knows.")
            self._waiting[type(request)].append(((ticket, i), request))

    def collect(self) -> list[tuple[int, list[Any]]]:
        """Work until some list is answered; the tickets and results of those that are."""
        ready: list[int] = [ticket for ticket, left in self._left.items() if not left]
        while self._left and not ready:
            for (ticket, i), result in self._advance():
                self._results[ticket][i] = result
                self._left[ticket] -= 1
                if not self._left[ticket]:
                    ready.append(ticket)
        for ticket in ready:
            del self._left[ticket]
        return [(ticket, self._results.pop(ticket)) for ticket in sorted(ready)]

    def _advance(self) -> list[tuple[Place, Any]]:
        """Answer all requests of the first kind that is waiting, or go on decoding."""
        for kind, waiting in self._waiting.items():
            if waiting and (kind is not Generate or self.executor.rollout is not None):
                self._waiting[kind] = []
                return self._run(waiting)
        self.decoder.add(self._waiting[Generate])
        self._waiting[Generate] = []
        return self.decoder.run()

    def _run(self, waiting: list[tuple[Place, Any]]) -> list[tuple[Place, Any]]:
        groups: dict[Hashable, list[tuple[Place, Any]]] = {}
        for place, request in waiting:
            groups.setdefault(_group(request), []).append((place, request))
        answered: list[tuple[Place, Any]] = []
        for group in groups.values():
            places, requests = [place for place, _ in group], [request for _, request in group]
            remote = isinstance(requests[0], Generate) and self.executor.rollout
            results = _served(remote, requests) if remote else self.executor.run(requests)
            answered += zip(places, results, strict=True)
        return answered


def _served(rollout: Rollout, requests: list[Generate]) -> list[Any]:
    """What a server answers; where it stays away, the requests fail and others may not."""
    try:
        return list(rollout(requests))
    except ServerError as error:
        return [Fault(error)] * len(requests)


def _group(request: Request) -> Hashable:
    """Requests of one group can share a batch."""
    match request:
        case Score():
            return (Score, grows(request))
        case Differentiate():
            return (Differentiate, request.objective, request.norm, request.temperature)
        case Certify():
            return (Certify, request.dto)
        case Refine():
            return (Refine, request.dto, request.norm, request.relaxation)
        case Tilt():
            return (Tilt, request.linearisation)
    return (type(request),)


def _guided_length(request: Weigh | Tilt) -> int:
    """Of the rows that share a batch: one a token that is scored."""
    rows = request.stop - request.first if isinstance(request, Weigh) else 1
    return max(1, rows) * (_frame_length(request.problem) + request.position + 1)


def _replayed_length(request: Replay) -> int:
    before = 0 if request.prefix is None else len(request.prefix.tokens)
    return len(request.problem.prompt) + before + len(request.text.encode())  # at most as many


def _frame_length(problem: Problem) -> int:
    return len(problem.frame.before) + len(problem.frame.after)


def _length(request: Score | Differentiate) -> int:
    problem = request.problem
    return len(request.trajectory.tokens) + max(len(problem.prompt), _frame_length(problem))
