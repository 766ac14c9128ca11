"""A response while it is being written, where it ends, and the trajectory that it becomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nabla_eval.cost.flops import forward_flops
from nabla_eval.cost.ledger import Ledger
from nabla_eval.errors import Fault, PolicyError
from nabla_eval.models.pair import Policy
from nabla_eval.options import DELIMITERS, Steps
from nabla_eval.outcome import StopReason
from nabla_eval.protocol import Generate, Problem, Trajectory
from nabla_eval.thought import Thought

COLUMNS = ("argmax", "entropy", "top_probability", "log_probability", "certainty")
_RAREST = math.log(torch.finfo(torch.float32).tiny)
NOTHING = -1  # in place of a token that cannot be drawn
_BROKEN = "\ufffd"  # bytes that are no whole character


@dataclass(eq=False)
class Response:
    """One response being written: `tokens` are those of it so far, the given ones first."""

    request: Generate
    tokens: list[int] = field(default_factory=list)
    given: int = 0  # tokens that were not generated here
    stop: StopReason | None = None
    scored: int = 0
    text: str = ""
    cost: Ledger = field(default_factory=Ledger)
    error: PolicyError | None = None  # why it could not be written

    def __post_init__(self) -> None:
        request = self.request
        watched = bool(request.problem.stop) or request.until is not None
        # Tokens from which on each one may end the response, whatever it is.
        self._checked_from = 0 if watched else request.problem.max_new_tokens

    @classmethod
    def of(cls, request: Generate, policy: Policy) -> Response:
        """A response with its given tokens; it may have ended with them."""
        response = cls(request)
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
        """Write a token; whether the response goes on after it.

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
        own = self.tokens[self.given :]
        if len(own) >= until.step_tokens:
            return True
        # Most tokens are known to end no step: none of their characters ends the delimiter.
        last, piece = DELIMITERS.get(until.step, "")[-1:], policy.piece(self.tokens[-1])
        return (last in piece or _BROKEN in piece) and until.complete(policy.decode(own))

    def finish(self, policy: Policy, reason: StopReason, scored: int) -> None:
        """End here, with the first `scored` tokens for the reward model to see."""
        self.stop, self.scored = reason, scored
        self.text = policy.shown(self.tokens[:scored], self.request.problem.thought)

    def encoded(self, policy: Policy, tokens: int, prefill: bool) -> None:
        """Count context tokens that were fed to the policy, the last of them with the first step.

        `prefill`: from the beginning, and not after keys and values that were there.
        """
        flops = forward_flops(policy.parameters, tokens - 1)
        self.cost.add(Ledger(prefills=int(prefill), prefill_tokens=tokens, flops=flops))

    def encoded_again(self, policy: Policy) -> None:
        """Count what was fed to the policy besides its last token, to write one more."""
        self.cost.add(Ledger(flops=forward_flops(policy.parameters, self.length - 2)))


def stop_cut(policy: Policy, tokens: list[int], problem: Problem) -> tuple[str, int] | None:
    """Text before the first stop string of the answer and the tokens that write it, if any.

    Stop strings are looked for among special tokens too, which the text itself does not show.
    """
    stops, thought = problem.stop, problem.thought
    # Most tokens are known to end no stop string. The others complete a character, or have the last
    # one of a stop string.
    piece = policy.piece(tokens[-1])
    if _BROKEN not in piece and not any(stop[-1] in piece for stop in stops):
        return None
    window = max(len(stop) for stop in stops) + 8  # a token is at least one byte of text
    tail = policy.decode(tokens[-window:], special=True)
    if not any(stop in tail for stop in stops):
        return None
    text = policy.decode(tokens, special=True)
    begin = 0 if thought is None else thought.answer_at(text)
    if begin is None:
        return None
    cuts = [at for stop in stops if (at := text.find(stop, begin)) >= 0]
    return _before(policy, tokens, min(cuts), thought) if cuts else None


def _before(
    policy: Policy, tokens: list[int], cut: int, thought: Thought | None
) -> tuple[str, int]:
    """The text of the first `cut` characters, special tokens counted, and its tokens."""
    reach = lambda count: len(policy.decode(tokens[:count], special=True))  # noqa: E731
    count = len(tokens)
    while count > 0 and reach(count - 1) >= cut:
        count -= 1
    over = reach(count) - cut
    if over and tokens[count - 1] in policy.special_ids:  # a part of one is nothing
        count, over = count - 1, 0
    text = policy.shown(tokens[:count], thought)
    return text[: len(text) - over], count


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
    entropy = torch.special.entr(log_probabilities.exp()).sum(-1)
    mean = log_probabilities.clamp_min(_RAREST).mean(-1)
    return {
        "entropy": entropy,
        "argmax": argmax,
        "top_probability": top.exp(),
        "log_probability": log_probabilities.gather(-1, tokens[:, None])[:, 0],
        "certainty": -math.log(logits.shape[-1]) - mean,
    }


Known = tuple[dict[str, list[Any]], Tensor | None]  # statistics and states `[L, D]` of new tokens


def trajectories(
    policy: Policy, responses: Sequence[Response], known: Sequence[Known]
) -> list[Trajectory | Fault]:
    """Join what the prefixes already knew with what was generated after them."""
    written = [response for response in responses if response.error is None]
    forced = iter(_forced(policy, [r.request for r in written if r.request.token is not None]))
    return [
        Fault(response.error)
        if response.error is not None
        else _trajectory(
            policy, response, *own, None if response.request.token is None else next(forced)
        )
        for response, own in zip(responses, known, strict=True)
    ]


def _trajectory(
    policy: Policy,
    response: Response,
    known: dict[str, list[Any]],
    states: Tensor | None,
    forced: float | None,
) -> Trajectory:
    request, given = response.request, response.given
    generated = len(response.tokens) - given
    columns = {name: tuple(known.get(name, ())[:generated]) for name in COLUMNS}
    if request.prefix is not None and given:
        prefix, own = request.prefix, columns
        columns = {name: getattr(prefix, name)[:given] + own[name] for name in COLUMNS}
        if forced is not None:
            before = prefix.log_probability[: request.keep]
            columns["log_probability"] = (*before, forced, *own["log_probability"])
        head = prefix.states[:given]
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


def _forced(policy: Policy, requests: Sequence[Generate]) -> list[float]:
    """Log-probabilities of the tokens that take the place of the prefixes' own."""
    if not requests:
        return []
    states = [r.prefix.states[r.keep] for r in requests if r.prefix is not None]
    logits = policy.head(torch.stack(states))
    tokens = torch.tensor([request.token for request in requests], device=logits.device)
    found: list[float] = statistics(logits, tokens)["log_probability"].tolist()
    return found
