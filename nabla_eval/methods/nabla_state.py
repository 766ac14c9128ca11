"""Where ∇-Reasoner stands in one problem, and what it keeps while it may still be used."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

from nabla_eval.cost.ledger import Ledger
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.methods.select import hard_sequence, uncertain
from nabla_eval.randomness import Key
from nabla_eval.requests import (
    Candidate,
    Certified,
    Gradient,
    Problem,
    Refinement,
    RewardScore,
    Trajectory,
)

Start: TypeAlias = tuple[int, tuple[int, ...]]  # sweep, and the tokens a rollout starts from


@dataclass(frozen=True)
class Visit:
    """A draw at a position of the current trajectory."""

    sweep: int
    position: int
    draw: Refinement | None  # None: the position was never refined
    token: int
    certified: bool = False  # no gradient could change it

    @property
    def place(self) -> tuple[int, int]:
        """Places are visited in their order."""
        return self.sweep, self.position


@dataclass
class LoopState:
    """The state of the loop on one problem."""

    problem: Problem
    config: Nabla
    current: Trajectory
    reward: float
    rollouts: int = 1
    compared: float | None = None  # the mis-scored reward of acceptance=released
    candidates: list[Candidate] = field(default_factory=list)
    sweep: int = 0
    position: int = 0  # where the sweep goes on
    entered: bool = False  # whether the sweep has come to a position that passes the gates
    visited: int = 0
    certified: int = 0
    positions: int = 0
    judged: dict[tuple[int, ...], RewardScore] = field(default_factory=dict)  # by what was scored
    unseen: set[tuple[int, ...]] = field(default_factory=set)  # scored, but not judged
    spare: dict[Start, Trajectory] = field(default_factory=dict)  # rolled out, but not judged
    surplus: Ledger = field(default_factory=Ledger)  # what lookahead threw away
    # Of the current trajectory, with the place that first asked for it:
    gradients: dict[tuple[int, ...], tuple[Gradient, tuple[int, int]]] = field(default_factory=dict)
    refined: dict[int, tuple[Refinement, tuple[int, int]]] = field(default_factory=dict)
    known: dict[int, tuple[Certified, int]] = field(default_factory=dict)  # from a sweep on
    places: list[int] | None = None  # that pass the gates which take no gradient

    @cached_property
    def streams(self) -> tuple[Key, ...]:
        """Return what each sweep draws with."""
        return tuple(self.problem.key / "resample" / s for s in range(self.config.passes))

    @property
    def ended(self) -> str | None:
        if self.config.stop_reward is not None and self.reward >= self.config.stop_reward:
            return "reward"
        return "budget" if self.rollouts >= self.config.n else None

    def unsure(self, start: int = 0) -> list[int]:
        """Positions of the current trajectory that pass the gates which take no gradient."""
        if self.places is None:
            self.places = uncertain(self.current, self.config)
        return self.places[bisect_left(self.places, start) :]

    def gradient(self, position: int) -> Gradient | None:
        """The gradient at the hard sequence of a position, where it was asked for.

        By causality dL/dy_i does not depend on how much of y has been committed (DESIGN 3.6).
        """
        hard = hard_sequence(self.current, position, self.config)
        return self.gradients[hard][0] if hard in self.gradients else None

    def visit(self, sweep: int, position: int) -> Visit | None:
        """The draw of a sweep at a position; None where it takes a gradient that is not there."""
        known, first = self.known.get(position, (None, sweep))
        certain = None if known is None else known.tokens[sweep - first]
        if position in self.refined:
            draw, (asked, _) = self.refined[position]
            return Visit(sweep, position, draw, draw.tokens[sweep - asked], certain is not None)
        return None if certain is None else Visit(sweep, position, None, certain, True)

    def differs(self, visit: Visit) -> bool:
        """Return whether a draw proposes anything."""
        return visit.token != self.current.tokens[visit.position]

    def start(self, visit: Visit) -> Start:
        """Return what a rollout depends on: the sweep its stream belongs to, and what it is
        given.
        """
        return visit.sweep, (*self.current.tokens[: visit.position], visit.token)

    def settle(self, visits: list[Visit]) -> None:
        """Commit to draws: what the loop came to, in its order."""
        self.visited += len(visits)
        self.certified += sum(visit.certified for visit in visits)
        if visits:
            self.move(visits[-1].sweep, visits[-1].position + 1)
            self.entered = True

    def move(self, sweep: int, position: int) -> None:
        """Go on from another place, counting the positions that are passed."""
        sweeps = sweep - self.sweep
        self.positions += sweeps * len(self.current.tokens) + position - self.position
        self.sweep, self.position = sweep, position
        self.entered = self.entered and not sweeps

    def accept(self, rival: Trajectory, reward: float) -> None:
        """Replace the current trajectory; the sweep goes on where it is."""
        self.waste()
        self.current, self.reward, self.compared, self.places = rival, reward, None, None
        self.gradients.clear()
        self.refined.clear()
        self.known.clear()
        lost = [start for start in self.spare if not self.can_come_to(start)]
        self.discard([self.spare.pop(start) for start in lost])

    def can_come_to(self, start: Start) -> bool:
        """Return whether a draw of the current trajectory may still lead there."""
        sweep, given = start
        position = len(given) - 1
        ahead = (sweep, position) >= (self.sweep, self.position)
        return ahead and self.current.tokens[:position] == given[:-1]

    def discard(self, rivals: Iterable[Trajectory]) -> None:
        """Count responses that the loop never came to."""
        tokens = sum(rival.cost.generated_tokens for rival in rivals)
        self.surplus.speculative_tokens += tokens

    def waste(self) -> None:
        """Count passes that were taken for places the loop never came to."""
        here = (self.sweep, self.position)
        passes = sum(place >= here for _, place in self.gradients.values())
        passes += sum(draw.passes for draw, place in self.refined.values() if place >= here)
        self.surplus.speculative_passes += passes
