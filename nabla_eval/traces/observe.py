"""Per-token entropies and gradient norms of the responses that a method saw, for the viewer.

A method passes trajectories and gradients on, and its outcome keeps numbers only where it judged a
candidate. So its requests are watched from outside, which is the same for every method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nabla_eval.outcome import Outcome
from nabla_eval.protocol import Differentiate, GradientNorms, Method, Refinement, Trajectory
from nabla_eval.traces.schema import Profile

DIGITS = 4  # significant ones: enough for a colour and a number to read


@dataclass
class Observed:
    """Observations of one problem's responses, by their tokens."""

    entropy: dict[tuple[int, ...], tuple[float, ...]] = field(default_factory=dict)
    norms: dict[tuple[int, ...], dict[int, float]] = field(default_factory=dict)

    def watch(self, method: Method) -> Method:
        """The same method; every result that it is sent is noted on the way."""
        try:
            requests = next(method)
            while True:
                try:
                    results = yield requests
                except Exception as error:  # thrown in by the driver: the method's to answer
                    requests = method.throw(error)
                    continue
                for request, result in zip(requests, results, strict=True):
                    self.note(request, result)
                requests = method.send(results)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        finally:
            method.close()

    def note(self, request: Any, result: Any) -> None:
        """Keep what a result says about single tokens."""
        if isinstance(result, Trajectory):
            self.entropy[result.tokens] = result.entropy
        elif isinstance(result, GradientNorms) and isinstance(request, Differentiate):
            self._keep(request.trajectory, result.norms)
        elif isinstance(result, Refinement) and result.norm is not None:
            self._keep(request.trajectory, {request.position: result.norm})

    def _keep(self, trajectory: Trajectory, norms: Mapping[int, float]) -> None:
        self.norms.setdefault(trajectory.tokens, {}).update(norms)

    def profiles(self, outcome: Outcome, token_text: Callable[[int], str]) -> dict[str, Profile]:
        """The first draft and, where it is another, the returned response, token by token."""
        found: dict[str, Profile] = {}
        first = outcome.drafts[0].tokens if outcome.drafts else outcome.tokens
        if first in self.entropy:
            found["first"] = self._profile(first, token_text)
        if outcome.tokens != first and outcome.tokens in self.entropy:
            found["final"] = self._profile(outcome.tokens, token_text)
        return found

    def _profile(self, tokens: tuple[int, ...], token_text: Callable[[int], str]) -> Profile:
        norms: Mapping[int, float] = self.norms.get(tokens, {})
        return {
            "tokens": [token_text(token) for token in tokens],
            "entropy": [_short(value) for value in self.entropy[tokens]],
            "gradient_norms": {str(i): _short(norm) for i, norm in sorted(norms.items())},
        }


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
