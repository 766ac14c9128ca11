"""The only words that methods and the engine share: requests and their results.

A method is a generator that yields lists of requests and receives their results in order
(DESIGN 4). It sees tokens, text and plain numbers; what lives on the device (hidden states,
gradients) passes through it as opaque fields that only the engine opens.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol, TypeAlias, runtime_checkable

from nabla_eval.outcome import (
    CUT_OFF,
    Candidate,
    Choice,
    Draft,
    Outcome,
    Step,
    StopReason,
    Verdict,
)
from nabla_eval.requests.asked import (
    Certified,
    Certify,
    Compose,
    Differentiate,
    Generate,
    Gradient,
    Prompt,
    Refine,
    Refinement,
    Replay,
    RewardScore,
    Score,
    Trajectory,
)
from nabla_eval.requests.problem import (
    Message,
    Problem,
    TemplateAffixes,
)
from nabla_eval.thought import Thought

__all__ = [
    "CUT_OFF",
    "Candidate",
    "Certified",
    "Certify",
    "Choice",
    "Compose",
    "Differentiate",
    "Draft",
    "Generate",
    "Gradient",
    "Message",
    "Method",
    "Outcome",
    "Part",
    "Problem",
    "Prompt",
    "Refine",
    "Refinement",
    "Replay",
    "Request",
    "RewardScore",
    "Score",
    "Step",
    "StopReason",
    "TemplateAffixes",
    "Thought",
    "Trajectory",
    "Verdict",
]


@runtime_checkable
class Request(Protocol):
    """Anything that a method asks about a problem; the engine has a handler for each kind."""

    @property
    def problem(self) -> Problem:
        """The problem that it is about."""

    @property
    def most_calls(self) -> int:
        """The most model calls that it can cost."""


Method: TypeAlias = Generator[list[Request], list[Any], Outcome]
Part: TypeAlias = Generator[list[Request], list[Any], Any]  # of a method, for `yield from`
