"""Executes whatever methods ask for, grouped by kind and cut into micro-batches."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from nabla_eval import extensions
from nabla_eval.engine.batching import in_batches
from nabla_eval.engine.gradient import Gradients, affordable, gradient_norms
from nabla_eval.engine.prefix_cache import PrefixCaches
from nabla_eval.engine.refine import free_rows, refine, refine_at_once
from nabla_eval.engine.rollout import Decoder
from nabla_eval.engine.score import score
from nabla_eval.engine.teacher_force import replay
from nabla_eval.errors import Fault
from nabla_eval.models.chat import compose as rendered
from nabla_eval.models.pair import Pair, Policy
from nabla_eval.models.prefix import keepable
from nabla_eval.protocol import (
    Compose,
    Differentiate,
    Generate,
    Problem,
    Prompt,
    Refine,
    Replay,
    Request,
    Score,
    Trajectory,
)
from nabla_eval.randomness import Key
from nabla_eval.thought import Messages, Thought, opened

Place = tuple[int, int]  # ticket, and place in its list


@runtime_checkable
class RowDecoder(Protocol):
    """Writes responses side by side, as `engine.rollout.Decoder` does."""

    def add(self, requests: Sequence[tuple[Any, Generate]]) -> None:
        """Begin requests, each with a ticket."""

    def run(self) -> list[tuple[Any, Trajectory | Fault]]:
        """Wait until some responses are whole; their tickets and trajectories."""

    def close(self) -> None:
        """Give up what is under way."""


@runtime_checkable
class Rollout(Protocol):
    """Another place than the local decode loop where responses are written."""

    def decoder(self) -> RowDecoder:
        """Return one for the work of a session."""


_ROW_ELEMENTS = 2**25  # of free rows x V that DTO holds at once, several times over


class Executor:
    """Runs requests on a local pair; call it with a list of requests, get results in order.

    A call raises the error of the first request that cannot be answered; in a `session` it comes
    back as a `Fault` in the request's place.

    `max_batch_tokens` bounds the padded tokens of one micro-batch: for a decode batch those it may
    come to hold, prompt and `max_new_tokens`. A batch that does not fit in memory is halved.
    `max_cached_tokens` bounds the tokens whose keys and values are cached for requests to come,
    of the policy and half as many of the reward model, beside those of the running batch; by
    default as many as `max_batch_tokens`. Beyond it, after memory ran out, and for models whose
    attention is not full everywhere, prefixes are encoded again.
    `chat` are options of the policy's chat template, for the questions that methods ask it.
    `rollout` answers `Generate` in place of the local decode loop, as `engine.vllm` does, while
    models run here.
    """

    def __init__(
        self,
        pair: Pair,
        max_batch_tokens: int = 2**17,
        chat: Mapping[str, Any] | None = None,
        rollout: Rollout | None = None,
        max_cached_tokens: int | None = None,
    ) -> None:
        self.pair = pair
        self.max_batch_tokens = max_batch_tokens
        self.chat = dict(chat or {})
        self.rollout = rollout
        self.caches = PrefixCaches(
            max_batch_tokens if max_cached_tokens is None else max_cached_tokens
        )
        self.gradients = Gradients()

    def __call__(self, requests: list[Request]) -> list[Any]:
        with closing(self.session()) as session:
            session.submit(0, requests)
            ((_, results),) = session.collect() if requests else [(0, [])]
        for result in results:
            if isinstance(result, Fault):
                raise result.error
        return results

    def session(self) -> Session:
        """Work on many lists of requests at once, each answered when it is ready.

        What is cached goes with the session.
        """
        session = Session(self)
        weakref.finalize(session, self.caches.clear)
        return session

    def run(self, requests: list[Any], early: bool = False) -> list[Any]:
        """Results of requests of one group, but for rollouts of the local decode loop.

        `early`: only of those that need no pass through a model, None of the others.
        """
        handler = HANDLERS[type(requests[0])]
        run = handler.early if early and handler.early is not None else handler.run
        return in_batches(
            lambda batch: run(self, batch),
            requests,
            lambda request: handler.length(self, request),
            handler.budget(self, requests[0]),
            self.caches.clear,
        )


@dataclass(frozen=True)
class Handler:
    """How the engine answers requests of one kind.

    A micro-batch holds requests of one `group` whose lengths, padded to the longest, stay within
    the `budget`. Where a kind has an `early` answer, None for some requests, these wait for each
    other until nothing but rollouts is left to do.
    """

    run: Callable[[Executor, list[Any]], list[Any]]
    length: Callable[[Executor, Any], int]
    budget: Callable[[Executor, Any], int] = lambda executor, request: executor.max_batch_tokens
    group: Callable[[Any], Hashable] = lambda request: None
    early: Callable[[Executor, list[Any]], list[Any]] | None = None


def compose(
    policy: Policy, requests: Sequence[Compose], options: Mapping[str, Any]
) -> list[Prompt]:
    """Return prompts of conversations; `options` are the chat template's own.

    Raises `ModelError` for a policy that has no chat template, or cannot read the messages.
    """
    prompts = []
    for request in requests:
        text = rendered(policy.tokenizer, request.messages, **options)
        ids = policy.encode(text, special=False)
        messages = [{"role": role, "content": content} for role, content in request.messages]
        problem = replace(
            request.problem,
            prompt=ids,
            thought=_thought(policy, request.problem.thought, text, messages),
            text=text,
            messages=request.messages,
            stop=request.stop,
            max_new_tokens=max(0, min(request.max_new_tokens, policy.context - len(ids))),
        )
        prompts.append(Prompt(problem))
    return prompts


def _thought(
    policy: Policy, known: Thought | None, prompt: str, messages: Messages
) -> Thought | None:
    """Return that of a prompt of its own, with the tags of the problem's where it has some."""
    if known is None or not known.start:
        return opened(prompt, messages) or known or policy.thought
    return replace(known, opened=known.opened_by(prompt, messages))


def _frame_length(problem: Problem) -> int:
    return len(problem.affixes.before) + len(problem.affixes.after)


def _length(executor: Executor, request: Score | Differentiate) -> int:
    problem = request.problem
    return len(request.trajectory.tokens) + max(len(problem.prompt), _frame_length(problem))


def _replayed_length(executor: Executor, request: Replay) -> int:
    before = 0 if request.prefix is None else len(request.prefix.tokens)
    return len(request.problem.prompt) + before + len(request.text.encode())  # at most as many


def _score_budget(executor: Executor, request: Score) -> int:
    """Where keys and values are cached, a batch also holds those of all its tokens."""
    cached = executor.caches.reward.budget and keepable(executor.pair.judge.base)
    return max(1, executor.max_batch_tokens // (4 if cached else 1))


def _row_budget(executor: Executor, request: Any) -> int:
    return max(1, _ROW_ELEMENTS // executor.pair.policy.vocabulary)


# In the order in which methods go through them. `Generate` is the decode loop's, or a server's.
HANDLERS: dict[type, Handler] = {
    Compose: Handler(
        lambda executor, batch: compose(executor.pair.policy, batch, executor.chat),
        lambda executor, request: 1,
    ),
    Replay: Handler(
        lambda executor, batch: replay(executor.pair.policy, batch), _replayed_length
    ),
    Score: Handler(
        lambda executor, batch: score(executor.pair.judge, batch, executor.caches),
        _length, _score_budget,
    ),
    Differentiate: Handler(
        lambda executor, batch: gradient_norms(
            executor.pair, batch, executor.caches, executor.gradients
        ),
        _length,
        lambda executor, request: min(executor.max_batch_tokens, affordable(executor.pair)),
        lambda request: (request.dto, request.norm, request.temperature),
    ),
    Refine: Handler(
        lambda executor, batch: refine(executor.pair, batch, executor.caches, executor.gradients),
        lambda executor, request: len(free_rows(request)), _row_budget,
        lambda r: (r.dto, r.norm, r.relaxation, r.certify, r.upto),
        lambda executor, batch: refine_at_once(executor.pair, batch, executor.gradients),
    ),
}  # fmt: skip


class Session:
    """Lists of requests under way, each with a ticket (an integer).

    Rollouts run in one decode batch that rows enter and leave, here or on a server. What else is
    asked for comes first, kind by kind in the order in which methods go through them, so that each
    kind is run for as many problems at once as ask for it.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.decoder: RowDecoder = (
            executor.rollout.decoder()
            if executor.rollout is not None
            else Decoder(
                executor.pair.policy,
                executor.max_batch_tokens,
                executor.caches.policy,
                relieve=executor.caches.clear,
            )
        )
        self._results: dict[int, list[Any]] = {}
        self._left: dict[int, int] = {}  # requests of a ticket that are not answered
        self._problems: dict[int, set[Key]] = {}  # of a ticket's requests so far
        self._answered: set[int] = set()  # tickets that were handed out last
        self._waiting: dict[type, list[tuple[Place, Any]]] = {
            kind: [] for kind in (*HANDLERS, Generate)
        }
        self._late: list[tuple[Place, Any]] = []  # without an early answer

    def submit(self, ticket: int, requests: list[Request]) -> None:
        """Add a list of requests."""
        self._results[ticket] = [None] * len(requests)
        self._left[ticket] = len(requests)
        self._problems.setdefault(ticket, set()).update(r.problem.key for r in requests)
        for i, request in enumerate(requests):
            if type(request) not in self._waiting:
                raise TypeError(f"{type(request).__name__} is not a request that the engine knows.")
            self._waiting[type(request)].append(((ticket, i), request))

    def collect(self) -> list[tuple[int, list[Any]]]:
        """Work until some list is answered; the tickets and results of those that are.

        A ticket that was handed out and did not come back has ended: nothing of it stays cached.
        """
        for ticket in self._answered - self._left.keys():
            for problem in self._problems.pop(ticket):
                self.executor.caches.forget(problem)
        ready: list[int] = [ticket for ticket, left in self._left.items() if not left]
        while self._left and not ready:
            for (ticket, i), result in self._advance():
                self._results[ticket][i] = result
                self._left[ticket] -= 1
                if not self._left[ticket]:
                    ready.append(ticket)
        self._answered = set(ready)
        for ticket in ready:
            del self._left[ticket]
        return [(ticket, self._results.pop(ticket)) for ticket in sorted(ready)]

    def close(self) -> None:
        """Give up what is under way."""
        self.decoder.close()

    def _advance(self) -> list[tuple[Place, Any]]:
        """Answer all requests of the first kind that is waiting, or go on decoding.

        A server begins rollouts at once, and writes while models run here.
        """
        rollouts, self._waiting[Generate] = self._waiting[Generate], []
        if rollouts:
            self.decoder.add(rollouts)
        for kind, waiting in self._waiting.items():
            if waiting:
                self._waiting[kind] = []
                return self._run(waiting, early=True)
        if self._late:
            late, self._late = self._late, []
            return self._run(late)
        return self.decoder.run()

    def _run(
        self, waiting: list[tuple[Place, Any]], early: bool = False
    ) -> list[tuple[Place, Any]]:
        groups: dict[Hashable, list[tuple[Place, Any]]] = {}
        for place, request in waiting:
            group = HANDLERS[type(request)].group(request)
            groups.setdefault(group, []).append((place, request))
        answered: list[tuple[Place, Any]] = []
        for own in groups.values():
            places, requests = [place for place, _ in own], [request for _, request in own]
            results = self.executor.run(requests, early)
            for result, own_place, request in zip(results, places, requests, strict=True):
                if result is None:
                    self._late.append((own_place, request))
                else:
                    answered.append((own_place, result))
        return answered


extensions.load("handlers")
