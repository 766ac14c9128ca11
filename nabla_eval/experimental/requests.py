"""Requests about the next token: its prefix score under the reward model, and the gradient.

s(y_<=t) is the prefix score of a response's first tokens. A process reward gives it at the last of
them. An outcome reward was trained to speak at the end of its template alone, so there it is r of
the prefix as it stands, the template's end after it. A token that ends the response is shown as
that end, as it is when whole responses are scored: s is then the reward r of the response.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from nabla_eval.cost.ledger import Ledger
from nabla_eval.protocol import Problem, Trajectory

# Where s is linearised: at the policy's mean embedding, or at its most likely token's.
Linearisation: TypeAlias = Literal["soft", "hard"]


@dataclass(frozen=True)
class Known:
    """A token that may stand at a position, and what is known of it there."""

    token: int
    log_probability: float  # nats, under the policy, at temperature 1
    score: float | None = None  # s of the prefix that ends with it, where it was asked for
    gradient: float | None = None  # G (nats), where it was taken


@dataclass(frozen=True)
class Ranking:
    """Tokens that may stand at a position, best first."""

    tokens: tuple[Known, ...]
    own: Known  # the trajectory's token; its score is not asked for
    gradient: Any = field(repr=False, compare=False, default=None)  # of `Tilt`: all of G, `[V]`
    cost: Ledger = field(repr=False, compare=False, default_factory=Ledger)


@dataclass(frozen=True)
class Weigh:
    """The policy's `keep` most likely tokens at a position, and exact scores s(y_<t, v) of some.

    Scored are those of ranks first..stop-1, each by one token through the reward model, after
    `trajectory.tokens[:position]`, of which what is not known from earlier requests is encoded
    first. Tokens that the reward model lacks have no rank, nor have those that the policy gives
    less than `min_probability` (its first choice among the others always has one).
    """

    problem: Problem
    trajectory: Trajectory
    position: int
    keep: int = 1
    first: int = 0
    stop: int = 1
    min_probability: float = 0.0

    @property
    def most_calls(self) -> int:
        """The most model calls that it can cost."""
        return max(0, min(self.stop, self.keep) - self.first)


@dataclass(frozen=True)
class Tilt:
    """The `keep` tokens v with the highest log pi(v) + beta G_v at a position (DESIGN 3.8).

    G_v = <grad_e log sigmoid(s(y_<t, e)), e_v>, with the gradient taken at one embedding e: the
    policy's mean, sum_v pi(v) e_v ("soft"), or its most likely token's ("hard"). The tokens are the
    order of pi(v) exp(beta G_v): one step of KL-regularised tilting, exact for a linearised reward.
    Tokens without a rank in `Weigh` have none here, and those that the reward model lacks count
    nothing in the mean.
    """

    problem: Problem
    trajectory: Trajectory
    position: int
    beta: float
    linearisation: Linearisation = "soft"
    keep: int = 1
    min_probability: float = 0.0

    most_calls: ClassVar[int] = 2  # a forward and a backward pass
