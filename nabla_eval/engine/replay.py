"""Trajectories of responses that were written elsewhere, and prompts that methods write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from nabla_eval.cost.flops import forward_flops
from nabla_eval.cost.ledger import Ledger
from nabla_eval.engine.reread import Written, reread
from nabla_eval.errors import ContextError
from nabla_eval.models.chat import compose as rendered
from nabla_eval.models.pair import Policy
from nabla_eval.outcome import StopReason
from nabla_eval.protocol import Compose, Problem, Prompt, Replay, Trajectory
from nabla_eval.thought import Messages, Thought, opened


def replay(policy: Policy, requests: Sequence[Replay]) -> list[Trajectory]:
    """Trajectories of given texts, each the prefix's tokens and those of the text.

    What a cut text leaves open: they end as a step does. Raises `ContextError` for a text that is
    too long, or of no tokens, and `PolicyError` where the policy's logits are not finite.
    """
    rows = []
    for request in requests:
        before = () if request.prefix is None else request.prefix.tokens
        rows.append((request.problem, before + policy.encode(request.text, special=False)))
    return [
        replace(trajectory, stop="step" if trajectory.stop == "length" else trajectory.stop)
        for trajectory in forced(policy, rows)
    ]


def forced(policy: Policy, rows: Sequence[tuple[Problem, tuple[int, ...]]]) -> list[Trajectory]:
    """Trajectories of given response tokens, as one left-padded batch without a cache."""
    for problem, tokens in rows:
        if len(problem.prompt) + len(tokens) > policy.context or not problem.prompt or not tokens:
            raise ContextError(
                f"A prompt of {len(problem.prompt)} tokens and a response of {len(tokens)} were "
                f"given. Give {policy.name} at least one of each, and at most {policy.context} "
                "together."
            )
    written = [
        Written((*problem.prompt, *tokens), len(tokens), problem) for problem, tokens in rows
    ]
    known = reread(policy, written)
    return [
        _trajectory(policy, problem, tokens, *own)
        for (problem, tokens), own in zip(rows, known, strict=True)
    ]


def _trajectory(
    policy: Policy,
    problem: Problem,
    tokens: tuple[int, ...],
    columns: Mapping[str, list[Any]],
    states: torch.Tensor,
) -> Trajectory:
    ended = tokens[-1] in policy.end_ids
    scored = len(tokens) - ended
    stop: StopReason = "eos" if ended else "length"
    length = len(problem.prompt) + len(tokens) - 1
    return Trajectory(
        tokens=tokens,
        text=policy.shown(tokens[:scored], problem.thought),
        scored=scored,
        stop=stop,
        key=problem.key,
        states=states,
        cost=Ledger(scorings=1, flops=forward_flops(policy.parameters, length)),
        **{name: tuple(values) for name, values in columns.items()},
    )


def compose(
    policy: Policy, requests: Sequence[Compose], options: Mapping[str, Any]
) -> list[Prompt]:
    """Prompts of conversations; `options` are the chat template's own.

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
    """That of a prompt of its own, with the tags of the problem's where it has some."""
    if known is None or not known.start:
        return opened(prompt, messages) or known or policy.thought
    return replace(known, opened=known.opened_by(prompt, messages))
