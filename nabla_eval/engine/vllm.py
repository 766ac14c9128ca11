"""Rollouts from a vLLM server; gradients, statistics and hidden states stay local (DESIGN 4).

The server draws the tokens, so they are reproducible on the server (every request has a seed that
is a function of its key), but they are not the tokens that the local decode loop would draw with
the same key. What a trajectory knows of its tokens comes from one local forward pass over them:
the server's model must be the local policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nabla_eval.cost.flops import forward_flops
from nabla_eval.cost.ledger import Ledger
from nabla_eval.engine.batching import in_batches
from nabla_eval.engine.completions import Completion, Server
from nabla_eval.engine.response import Known, Response, trajectories
from nabla_eval.engine.teacher_force import Written, read
from nabla_eval.errors import ConfigError, ContextError, Fault, ModelError, ServerError
from nabla_eval.models.pair import Policy
from nabla_eval.options import Sampling
from nabla_eval.protocol import Generate, Problem, Trajectory
from nabla_eval.randomness import Key

# Where a step may end; what else ends one (regular expressions) is cut here.
_DELIMITERS = {"newline": "\n", "blank_line": "\n\n", "semicolon": ";"}
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
        Raises `ServerError` for a server that stays away, `ContextError` for a response that does
        not fit its context.
        """
        for request in requests:
            self._refuse(request.problem)
            if request.confidence is not None:
                raise ConfigError(
                    "This method looks at the policy's confidence at every token, which a server's "
                    "answers come too late for. Leave rollout=vllm out."
                )
        rows = [Response.of(request, self.policy) for request in requests]
        extra = [Ledger() for _ in rows]
        asked: set[int] = set()
        while unfinished := [i for i, row in enumerate(rows) if row.stop is None]:
            for i in asked.intersection(unfinished):
                extra[i].add(self._prefill(rows[i].length))
            for i in set(unfinished).difference(asked):
                rows[i].charge(self.policy, rows[i].length, prefill=True)
            bodies = [self._body(rows[i]) for i in unfinished]
            for i, completion in zip(unfinished, self.server.complete_all(bodies), strict=True):
                extra[i].generated_tokens += self._continue(rows[i], completion)
            asked.update(unfinished)
        fresh = [i for i, row in enumerate(rows) if row.steps]
        known: dict[int, Any] = dict(
            zip(fresh, self._reread([rows[i] for i in fresh]), strict=True)
        )
        for i in fresh:  # the local forward pass, on top of the server's work
            extra[i].add(self._prefill(rows[i].length - 1))
        sound = [i for i in range(len(rows)) if not isinstance(known.get(i), Fault)]
        written = trajectories(
            self.policy, [rows[i] for i in sound], [known.get(i, ({}, None)) for i in sound]
        )
        results: dict[int, Any] = {**known, **dict(zip(sound, written, strict=True))}
        for i in sound:
            results[i] = replace(results[i], cost=results[i].cost + extra[i])
        return [results[i] for i in range(len(rows))]

    def _refuse(self, problem: Problem) -> None:
        """Raise `ContextError` for a problem that the server has no room for."""
        room, taken = self.server.context, len(problem.prompt)
        if room is not None and taken + problem.max_new_tokens > room:
            raise ContextError(
                f"The prompt of {problem.id or 'a problem'} takes {taken} tokens and up to "
                f"{problem.max_new_tokens} more are to be generated, but {self.server!r} holds "
                f"{room}. Start it with a larger --max-model-len, or generate at most "
                f"{max(0, room - taken)} tokens."
            )

    def _body(self, row: Response) -> dict[str, Any]:
        """A request for the rest of a row.

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
        """Strings at which the server hands a row back: its end, or where a thought has ended.

        Stop strings do not count in thoughts, which the server knows nothing of.
        """
        problem, until = row.request.problem, row.request.until
        step = [_DELIMITERS[until.step]] if until is not None and until.step in _DELIMITERS else []
        thought = problem.thought
        if thought is None or not problem.stop:
            return [*problem.stop, *step]
        if thought.answer_at(self.policy.decode(row.tokens, special=True)) is None:
            return [thought.end, *step]
        return [*problem.stop, *([thought.start] if thought.start else []), *step]

    def _continue(self, row: Response, completion: Completion) -> int:
        """Add tokens up to where the response ends by our own rules; how many were left over.

        A row that has not ended then (the server saw a stop string that does not count) is asked
        for again from there.
        """
        self._check(row, completion)
        for count, token in enumerate(completion.tokens, start=1):
            row.tokens.append(token)
            row.check(self.policy)
            if row.stop is not None:
                return len(completion.tokens) - count
        return 0

    def _prefill(self, tokens: int) -> Ledger:
        flops = forward_flops(self.policy.parameters, tokens)
        return Ledger(prefills=1, prefill_tokens=tokens, flops=flops)

    def _check(self, row: Response, completion: Completion) -> None:
        wrong = next((t for t in completion.tokens if not 0 <= t < self.policy.vocabulary), None)
        if wrong is not None:
            raise ModelError(
                f"{self.server!r} gave token {wrong}, and {self.policy.name} has "
                f"{self.policy.vocabulary} tokens. Serve the policy itself."
            )
        asked, count = _room(row), len(completion.tokens)
        whole = {"stop": 0 < count <= asked, "length": count == asked}
        if not whole.get(completion.finish, False):
            raise ServerError(
                f"{self.server!r} gave {count} of {asked} tokens and ended with "
                f"{completion.finish!r}. Is its context (--max-model-len) too small?"
            )

    def _reread(self, rows: Sequence[Response]) -> list[Known | Fault]:
        written = [Written(tuple(row.context), row.steps, row.request.problem) for row in rows]
        return in_batches(
            lambda batch: [*read(self.policy, batch)],
            written,
            lambda row: len(row.tokens),
            self.max_batch_tokens,
        )

    def _compare(self) -> None:
        """Raise where the server's greedy tokens are unlikely under the local policy."""
        prompt = self.policy.encode(_PROBE) or (1,)
        body = {
            "prompt": list(prompt),
            "max_tokens": _PROBE_TOKENS,
            **sampling_arguments(Sampling(temperature=0)),
        }
        (completion,) = self.server.complete_all([body])
        if not 0 < len(completion.tokens) <= _PROBE_TOKENS:
            wrote = f"{len(completion.tokens)} tokens" if completion.tokens else "nothing"
            raise ServerError(
                f"{self.server!r} wrote {wrote} after {_PROBE!r}, and was asked for "
                f"{_PROBE_TOKENS} at most. Look at its log."
            )
        whole = Written((*prompt, *completion.tokens), len(completion.tokens))
        gap = _mean_gap(self.policy, whole)
        if gap > _FOREIGN:
            raise ModelError(
                f"{self.server!r} serves another model than {self.policy.name}: the tokens that it "
                f"likes best are {gap:.1f} nats less likely here than the best ones, on average. "
                "Serve the policy's own checkpoint."
            )


def _room(row: Response) -> int:
    """Tokens that a row may still take: of its response, or of the step that it is to end with."""
    room, until = row.request.problem.max_new_tokens - len(row.tokens), row.request.until
    if until is None:
        return room
    return min(room, until.step_tokens - row.steps)


def _mean_gap(policy: Policy, row: Written) -> float:
    """Mean difference of the largest logit and that of the token written, over the new tokens."""
    if any(not 0 <= token < policy.vocabulary for token in row.tokens):
        return float("inf")
    ((_, states),) = read(policy, [row])
    logits = policy.head(states).double()
    own = logits.new_tensor(row.tokens[-row.count :]).long()
    best = logits.max(-1).values
    return float((best - logits.gather(-1, own[:, None])[:, 0]).mean())


def seed_of(key: Key, position: int) -> int:
    """The seed of the tokens from a response position on: 63 bits of a sub-stream's name."""
    return int.from_bytes((key / "vllm" / position).digest[:8], "little") >> 1


def sampling_arguments(sampling: Sampling) -> dict[str, Any]:
    """Sampling options in the API's words.

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
