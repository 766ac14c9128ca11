"""Rollouts from a vLLM server; gradients, statistics and hidden states stay local (DESIGN 4).

The server draws the tokens, so they are reproducible on the server (every request has a seed that
is a function of its key), but they are not the tokens that the local decode loop would draw with
the same key. What a trajectory knows of its tokens comes from one local forward pass over them:
the server's model must be the local policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing
from statistics import fmean
from typing import Any

from nabla_eval.cost.ledger import Ledger, forward_flops
from nabla_eval.engine.batching import in_batches
from nabla_eval.engine.response import Known, Response, trajectories
from nabla_eval.engine.teacher_force import Written, read
from nabla_eval.engine.vllm_client import Completion, Server
from nabla_eval.errors import ConfigError, Fault, ModelError, ServerAwayError, ServerError
from nabla_eval.models.pair import Policy
from nabla_eval.options import DELIMITERS, Sampling
from nabla_eval.protocol import Generate, Trajectory
from nabla_eval.randomness import Key

_PROBE = "20,14,7=42?"  # any text would do
_PROBE_TOKENS = 8
_FOREIGN = 0.5  # nats that the server's first choices may be behind ours on average: rounding


class VLLMRollout:
    """Answers `Generate` with a server's tokens; an `Executor` takes it as `rollout=`.

    Raises `ModelError` where the server's model is not the policy: its greedy tokens are compared.
    `max_batch_tokens` bounds the padded tokens of one local forward pass.
    """

    def __init__(self, policy: Policy, server: Server, max_batch_tokens: int = 2**17) -> None:
        self.policy, self.server, self.max_batch_tokens = policy, server, max_batch_tokens
        self._compare()

    def __call__(self, requests: Sequence[Generate]) -> list[Trajectory | Fault]:
        """Roll out responses; results in the order of the requests.

        A response whose tokens the local policy cannot read comes back as a `Fault`.
        Raises `ServerError` for a server that stays away or cannot answer.
        """
        with closing(self.decoder()) as decoder:
            decoder.add(list(enumerate(requests)))
            results: dict[int, Trajectory | Fault] = {}
            while len(results) < len(requests):
                for i, result in decoder.run():
                    if isinstance(result, Fault) and isinstance(result.error, ServerError):
                        raise result.error
                    results[i] = result
        return [results[i] for i in range(len(requests))]

    def decoder(self) -> ServerDecoder:
        """Return what sends requests off and hands back responses as they are written."""
        return ServerDecoder(self)

    def read(self, rows: Sequence[Response]) -> list[Trajectory | Fault]:
        """Read what the server wrote with the local policy, on top of the server's work."""
        fresh = [row for row in rows if row.steps and row.error is None]
        found: list[Known | Fault] = in_batches(
            lambda batch: [*read(self.policy, batch)],
            [Written(tuple(row.context), row.steps, row.request.problem) for row in fresh],
            lambda written: len(written.tokens),
            self.max_batch_tokens,
        )
        known: dict[Response, Known] = {}
        for row, own in zip(fresh, found, strict=True):
            tokens = row.length - 1
            flops = forward_flops(self.policy.parameters, tokens)
            row.cost.add(Ledger(prefills=1, prefill_tokens=tokens, flops=flops))
            if isinstance(own, Fault):
                row.error = own.error
            else:
                known[row] = own
        return trajectories(self.policy, rows, [known.get(row, ({}, None)) for row in rows])

    def body(self, row: Response) -> dict[str, Any]:
        """Return a request for the rest of a row.

        Stop strings that are tokens are given as such too, and the server shows special tokens
        where it looks for strings: else it would never find those that hold one.
        """
        stops = self._stops(row)
        single = [token for stop in stops if (token := self.policy.token_of(stop)) is not None]
        body = {
            "prompt": row.context,
            "max_tokens": _room(row),
            "seed": seed_of(row.request.key, len(row.tokens)),
            "ignore_eos": True,  # the server's idea of it; ours are stop_token_ids
            "stop_token_ids": list(dict.fromkeys((*self.policy.end_ids, *single))),
            **sampling_arguments(row.request.sampling),
        }
        return {**body, "stop": stops, "skip_special_tokens": False} if stops else body

    def _stops(self, row: Response) -> list[str]:
        """Return strings at which the server hands a row back: its end, or that of a thought.

        Stop strings do not count in thoughts, which the server knows nothing of.
        """
        problem, until = row.request.problem, row.request.until
        step = []  # what else ends one (regular expressions) is cut here
        if until is not None and until.step in DELIMITERS:
            step = [DELIMITERS[until.step]]
        thought = problem.thought
        if thought is None or not problem.stop:
            return [*problem.stop, *step]
        if thought.answer_at(self.policy.decode(row.tokens, special=True)) is None:
            return [thought.end, *step]
        return [*problem.stop, *([thought.start] if thought.start else []), *step]

    def extend(self, row: Response, completion: Completion) -> None:
        """Add tokens up to where the response ends by our own rules; those left over are paid too.

        A row that has not ended then (the server saw a stop string that does not count) is to be
        asked for again from there. Raises `ServerError` or `ModelError` for what is no rest of it.
        """
        self._check(completion, _room(row))
        for count, token in enumerate(completion.tokens, start=1):
            row.tokens.append(token)
            row.check(self.policy)
            if row.stop is not None:
                row.cost.generated_tokens += len(completion.tokens) - count
                return

    def _check(self, completion: Completion, asked: int) -> None:
        """Raise for tokens that the policy lacks, and for another number of them than asked for."""
        wrong = next((t for t in completion.tokens if not 0 <= t < self.policy.vocabulary), None)
        if wrong is not None:
            raise ModelError(
                f"{self.server!r} gave token {wrong}, and {self.policy.name} has "
                f"{self.policy.vocabulary} tokens. Serve the policy itself."
            )
        count = len(completion.tokens)
        whole = {"stop": 0 < count <= asked, "length": count == asked}
        if not whole.get(completion.finish, False):
            raise ServerError(
                f"{self.server!r} gave {count} of {asked} tokens and ended with "
                f"{completion.finish!r}. Is its context (--max-model-len) too small?"
            )

    def _compare(self) -> None:
        """Raise where the server's greedy tokens are unlikely under the local policy."""
        prompt, greedy = self.policy.encode(_PROBE) or (1,), Sampling(temperature=0)
        body = {"prompt": list(prompt), "max_tokens": _PROBE_TOKENS, **sampling_arguments(greedy)}
        completion = self.server.complete(body)
        self._check(completion, _PROBE_TOKENS)
        whole = Written((*prompt, *completion.tokens), len(completion.tokens))
        ((columns, _),) = read(self.policy, [whole])
        likely = zip(columns["top_probability"], columns["log_probability"], strict=True)
        gap = fmean(math.log(top) - own for top, own in likely)
        if gap > _FOREIGN:
            raise ModelError(
                f"{self.server!r} serves another model than {self.policy.name}: the tokens that it "
                f"likes best are {gap:.1f} nats less likely here than the best ones, on average. "
                "Serve the policy's own checkpoint."
            )


class ServerDecoder:
    """Responses that a server is writing, each sent off as soon as it is asked for.

    The server batches what it has (continuous batching) while whoever holds this scores, refines
    and takes gradients; `run` waits only where nothing has come meanwhile.
    """

    def __init__(self, rollout: VLLMRollout) -> None:
        self.rollout = rollout
        self._written: dict[Future[Completion], Response] = {}
        self._finished: list[Response] = []

    def add(self, requests: Sequence[tuple[Any, Generate]]) -> None:
        """Send requests off, each with a ticket that its trajectory will bear."""
        if any(request.confidence is not None for _, request in requests):
            raise ConfigError(
                "This method looks at the policy's confidence at every token, which a server's "
                "answers come too late for. Leave rollout=vllm out."
            )
        for ticket, request in requests:
            self._go_on(Response.of(request, self.rollout.policy, ticket))

    def run(self) -> list[tuple[Any, Trajectory | Fault]]:
        """Wait until some responses are whole; return their tickets and trajectories.

        Where the server cannot write one, or stays away from all, they come back as a `Fault`.
        """
        while not self._finished:
            done, _ = wait(self._written, return_when=FIRST_COMPLETED)
            for future in done:
                self._receive(future)
        rows, self._finished = self._finished, []
        found = self.rollout.read(rows)
        return [(row.ticket, result) for row, result in zip(rows, found, strict=True)]

    def close(self) -> None:
        """Give up what is under way."""
        self._written.clear()
        self.rollout.server.hang_up()

    def _receive(self, future: Future[Completion]) -> None:
        row = self._written.pop(future, None)
        if row is None:  # given up with the others
            return
        try:
            self.rollout.extend(row, future.result())
        except ServerAwayError as error:
            self._fail([row, *self._written.values()], error)
            self.close()
        except ServerError as error:
            self._fail([row], error)
        else:
            self._go_on(row)

    def _fail(self, rows: list[Response], error: ServerError) -> None:
        for row in rows:
            row.error = error
        self._finished += rows

    def _go_on(self, row: Response) -> None:
        """Ask for the rest of a row, where it lacks one."""
        if row.over:
            self._finished.append(row)
            return
        row.charge(self.rollout.policy, row.length, prefill=True)
        self._written[self.rollout.server.submit(self.rollout.body(row))] = row


def _room(row: Response) -> int:
    """Return how many tokens a row may still take, of its response or of its step."""
    room, until = row.request.problem.max_new_tokens - len(row.tokens), row.request.until
    return room if until is None else min(room, until.step_tokens - row.steps)


def seed_of(key: Key, position: int) -> int:
    """Return the seed of the tokens from a response position on: 63 bits of its stream's name."""
    return int.from_bytes((key / "vllm" / position).digest[:8], "little") >> 1


def sampling_arguments(sampling: Sampling) -> dict[str, Any]:
    """Return sampling options in the API's words.

    Penalties and min_p are named too: the server's defaults come from the checkpoint's
    generation_config.json, which for many models holds a repetition penalty.
    """
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,  # which older servers want for "all"
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
