"""How a token is drawn and whether it ends the response, written to be read.

The specification of `sampler.py` and of `response.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nabla_eval.models.pair import Pair, Policy
from nabla_eval.options import Sampling
from nabla_eval.outcome import StopReason
from nabla_eval.protocol import Problem


def distribution(z: Tensor, sampling: Sampling) -> list[float]:
    """softmax(z / tau) with the k most likely tokens kept, then the smallest set of mass >= p."""
    if sampling.temperature == 0:
        best = int(z.argmax())
        return [1.0 if token == best else 0.0 for token in range(len(z))]
    p = torch.softmax(z / sampling.temperature, -1).tolist()
    order = sorted(range(len(p)), key=lambda token: -p[token])  # stable: ties by token id
    if sampling.top_k:
        order = order[: sampling.top_k]
    total, mass, kept = sum(p[token] for token in order), 0.0, set()
    for token in order:
        if mass / total >= sampling.top_p and sampling.top_p < 1:
            break
        kept.add(token)
        mass += p[token]
    return [p[token] / mass if token in kept else 0.0 for token in range(len(p))]


def draw(probabilities: list[float], number: float) -> int:
    """Inverse CDF: walk the vocabulary until the number is passed."""
    cumulative, last = 0.0, 0
    for token, probability in enumerate(probabilities):
        cumulative += probability
        last = token if probability > 0 else last
        if cumulative > number:
            return token
    return last


def ended(pair: Pair, problem: Problem, y: list[int]) -> tuple[StopReason, int, str] | None:
    """Why a response ends with its last token, how many tokens are scored, and its text."""
    policy = pair.policy
    if y and y[-1] in policy.end_ids:
        return "eos", len(y) - 1, _text(policy, problem, y[:-1])
    written = policy.decode(y, special=True)
    cuts = [
        written.find(stop, begin)
        for stop in problem.stop
        for begin in answer_start(problem, written)
    ]
    if any(cut >= 0 for cut in cuts):
        return _before(policy, problem, y, min(cut for cut in cuts if cut >= 0))
    if len(y) >= problem.max_new_tokens:
        return "length", len(y), _text(policy, problem, y)
    return None


def answer_start(problem: Problem, written: str) -> list[int]:
    """Where stop strings begin to count: nowhere in a thought."""
    begin = 0 if problem.thought is None else problem.thought.answer_at(written)
    return [] if begin is None else [begin]


def _before(
    policy: Policy, problem: Problem, y: list[int], cut: int
) -> tuple[StopReason, int, str]:
    """Return what the first `cut` characters leave of a response, token by token."""
    written, text, scored, at = policy.decode(y, special=True), "", 0, 0
    for count, token in enumerate(y, start=1):
        reach = len(policy.decode(y[:count], special=True))
        special = token in policy.special_ids
        if at >= cut or (special and reach > cut):
            break
        if token not in policy.hidden(problem.thought):
            text += written[at : min(reach, cut)]
        scored, at = count, reach
    return "stop", scored, text


def _text(policy: Policy, problem: Problem, y: list[int]) -> str:
    return policy.shown(y, problem.thought)
