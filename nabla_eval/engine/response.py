"""A response while it is being written, and the trajectory that it becomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nabla_eval.cost.ledger import Ledger, forward_flops
from nabla_eval.engine.stop_strings import BROKEN, stop_cut
from nabla_eval.errors import Fault, PolicyError
from nabla_eval.models.pair import Policy
from nabla_eval.options import DELIMITERS, Steps
from nabla_eval.outcome import StopReason
from nabla_eval.protocol import Generate, Problem, Trajectory

COLUMNS = ("argmax", "entropy", "top_probability", "log_probability", "certainty")
NOTHING = -1  # in place of a token that cannot be drawn
_RAREST = math.log(torch.finfo(torch.float32).tiny)

Known = tuple[dict[str, list[Any]], Tensor | None]  # statistics and states `[L, D]` of new tokens


@dataclass(eq=False)
class Response:
    """One response being written: `tokens` are those of it so far, the given ones first."""

    request: Generate
    ticket: Any = None  # which its trajectory is handed out with
    tokens: list[int] = field(default_factory=list)
    given: int = 0  # tokens that were not generated here
    stop: StopReason | None = None
    scored: int = 0
    text: str = ""
    cost: Ledger = field(default_factory=Ledger)
    error: Exception | None = None  # why it could not be written
    # Statistics `[T, 5]` and states `[T, D]` of its new tokens, some steps a piece.
    known: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        request = self.request
        watched = bool(request.problem.stop) or request.until is not None
        # Tokens from which on each one may end the response, whatever it is.
        self._checked_from = 0 if watched else request.problem.max_new_tokens

    @classmethod
    def of(cls, request: Generate, policy: Policy, ticket: Any = None) -> Response:
        """Return a response with its given tokens; it may have ended with them."""
        response = cls(request, ticket)
        if request.prefix is not None:
            response.tokens = list(request.prefix.tokens[: request.keep])
            if request.token is not None:
                response.tokens.append(request.token)
            response.given = len(response.tokens)
            if request.token is not None:
                response.check(policy)
        if response.stop is None and len(response.tokens) >= request.problem.max_new_tokens:
            response.finish(policy, "length", len(response.tokens))
        return response

    def restart(self) -> None:
        """Forget what was generated: the key draws the same tokens again."""
        del self.tokens[self.given :]
        self.stop, self.error, self.cost, self.known = None, None, Ledger(), []

    @property
    def steps(self) -> int:
        """Number of tokens that were generated."""
        return len(self.tokens) - self.given

    @property
    def over(self) -> bool:
        """Return whether nothing more will be written."""
        return self.stop is not None or self.error is not None

    @property
    def context(self) -> list[int]:
        """Prompt and tokens."""
        return [*self.request.problem.prompt, *self.tokens]

    @property
    def length(self) -> int:
        """Number of tokens of the context."""
        return len(self.request.problem.prompt) + len(self.tokens)

    @property
    def longest(self) -> int:
        """The most tokens that the context may come to have."""
        return len(self.request.problem.prompt) + self.given + self.request.longest

    def add(self, token: int, policy: Policy, top_probability: float | None = None) -> bool:
        """Write a token; return whether the response goes on after it.

        `top_probability` of the policy's most likely token, where the request asks about it. A
        token that is `NOTHING` is none: the response ends with an `error`.
        """
        if token == NOTHING:
            self.error = no_distribution(policy, self.request.problem, len(self.tokens))
            return False
        self.tokens.append(token)
        if token in policy.end_ids or len(self.tokens) >= self._checked_from:
            self.check(policy)
        least = self.request.confidence
        if self.stop is None and least is not None and (top_probability or 0.0) <= least:
            self.finish(policy, "step", len(self.tokens))
        return self.stop is None

    def check(self, policy: Policy) -> None:
        """Finish when the last token ends the response."""
        problem = self.request.problem
        if self.tokens[-1] in policy.end_ids:
            self.finish(policy, "eos", len(self.tokens) - 1)
        elif problem.stop and (cut := stop_cut(policy, self.tokens, problem)) is not None:
            self.text, self.scored = cut
            self.stop = "stop"
        elif len(self.tokens) >= problem.max_new_tokens:
            self.finish(policy, "length", len(self.tokens))
        elif self.request.until is not None and self._step_ends(policy, self.request.until):
            self.finish(policy, "step", len(self.tokens))

    def _step_ends(self, policy: Policy, until: Steps) -> bool:
        if self.steps >= until.step_tokens:
            return True
        # Most tokens are known to end no step: none of their characters ends the delimiter.
        last, piece = DELIMITERS.get(until.step, "")[-1:], policy.piece(self.tokens[-1])
        if last not in piece and BROKEN not in piece:
            return False
        return until.complete(policy.decode(self.tokens[self.given :]))

    def finish(self, policy: Policy, reason: StopReason, scored: int) -> None:
        """End here, with the first `scored` tokens for the reward model to see."""
        self.stop, self.scored = reason, scored
        self.text = policy.shown(self.tokens[:scored], self.request.problem.thought)

    def charge(self, policy: Policy, tokens: int, prefill: bool) -> None:
        """Charge context tokens that were fed to the policy, the last of them with the first step.

        `prefill`: from the beginning, and not after keys and values that were there.
        """
        flops = forward_flops(policy.parameters, tokens - 1)
        self.cost.add(Ledger(prefills=int(prefill), prefill_tokens=tokens, flops=flops))


def trajectories(
    policy: Policy, responses: Sequence[Response], known: Sequence[Known]
) -> list[Trajectory | Fault]:
    """Join what the prefixes already knew with what was generated after them."""
    forced = _forced(policy, [own for own in responses if own.error is None])
    return [
        Fault(response.error)
        if response.error is not None
        else _trajectory(policy, response, *own, forced.get(response))
        for response, own in zip(responses, known, strict=True)
    ]


def _trajectory(
    policy: Policy,
    response: Response,
    known: dict[str, list[Any]],
    states: Tensor | None,
    forced: float | None,
) -> Trajectory:
    request, given, generated = response.request, response.given, response.steps
    columns: dict[str, Any] = {name: tuple(known.get(name, ())) for name in COLUMNS}
    if request.prefix is not None and given:
        before = {name: getattr(request.prefix, name)[:given] for name in COLUMNS}
        if forced is not None:
            before["log_probability"] = (*before["log_probability"][: request.keep], forced)
        columns = {name: before[name] + columns[name] for name in COLUMNS}
        head = request.prefix.states[:given]
        states = head if states is None else torch.cat([head, states])
    cost = response.cost
    if generated:
        flops = forward_flops(policy.parameters, generated)
        cost = cost + Ledger(generated_tokens=generated, flops=flops)
    assert response.stop is not None
    return Trajectory(
        tokens=tuple(response.tokens),
        text=response.text,
        scored=response.scored,
        stop=response.stop,
        key=request.key,
        states=states,
        cost=cost,
        **columns,
    )


def _forced(policy: Policy, responses: Sequence[Response]) -> dict[Response, float]:
    """Return the log-probabilities of tokens that take the place of the prefixes' own."""
    forced = [own for own in responses if own.request.token is not None]
    if not forced:
        return {}
    asked = [own.request for own in forced]
    logits = policy.head(torch.stack([r.prefix.states[r.keep] for r in asked if r.prefix]))
    tokens = torch.tensor([request.token for request in asked], device=logits.device)
    found = statistics(logits, tokens)["log_probability"].tolist()
    return dict(zip(forced, found, strict=True))


def statistics(logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Return a trajectory's statistics of `[B, V]` logits and the next `[B]` tokens, `[B]` each.

    All at temperature 1 and in nats: entropy, argmax and its probability, log-probability of the
    token, and KL(uniform || policy) = -log V - mean_v log p(v), the self-certainty of Kang et al.
    (2025), where a token counts as no rarer than float32 can tell. The probability of the argmax is
    NaN exactly where the logits are no distribution: NaN, infinite, or all minus infinity.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probabilities = wide.log_softmax(-1)
    top, argmax = log_probabilities.max(-1)
    chosen = log_probabilities.gather(-1, tokens[:, None])[:, 0]
    probabilities = log_probabilities.exp()
    log_probabilities.clamp_min_(_RAREST)  # finite: 0 log 0 is 0
    return {
        "entropy": 0 - torch.linalg.vecdot(probabilities, log_probabilities),
        "argmax": argmax,
        "top_probability": top.exp(),
        "log_probability": chosen,
        "certainty": -math.log(logits.shape[-1]) - log_probabilities.mean(-1),
    }


def no_distribution(policy: Policy, problem: Problem | None, position: int) -> PolicyError:
    """Return the error for logits of the policy that are NaN, infinite or all minus infinity.

    Minus infinity for some tokens is legal: they cannot be drawn.
    """
    name = problem.id if problem is not None else ""
    return PolicyError(
        f"The policy {policy.name} in {policy.dtype} gave logits that are not finite after "
        f"{position} tokens of a response (problem {name or '?'}). Try another dtype "
        "(float16 overflows where bfloat16 and float32 do not), or another attn_implementation."
    )
