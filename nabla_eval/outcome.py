"""The outcome of a method, and the trace of how it came to that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from nabla_eval.cost.ledger import Ledger

# "step": only a part of the response was asked for (`Generate.until`), and it ended there.
StopReason: TypeAlias = Literal["eos", "stop", "length", "step"]
Verdict: TypeAlias = Literal["accepted", "rejected", "tie"]


@dataclass(frozen=True)
class Draft:
    """Trace of one complete response drawn from the prompt."""

    index: int
    tokens: tuple[int, ...]
    text: str
    stop: StopReason
    reward: float | None = None  # None where no reward was asked for


@dataclass(frozen=True)
class Candidate:
    """Trace of one judged revision: a draw that differed from the token it would replace."""

    index: int  # 0-based, in the order judged
    sweep: int
    position: int
    entropy: float  # nats, of the policy at the position
    top_probability: float
    gradient_norm: float | None  # None where no gradient was taken
    old_token: int
    new_token: int
    old_reward: float  # of the response it was compared with
    new_reward: float
    verdict: Verdict
    tokens: tuple[int, ...]  # the whole candidate response
    text: str
    stop: StopReason
    flips: int = 0
    moved: float = 0.0
    certified: bool = False  # no gradient could change the draw (`dto.certify`)
    compared_reward: float | None = None  # where acceptance=released compared with another number


@dataclass(frozen=True)
class Choice:
    """Trace of one token that was chosen with the reward model's help while a response was written.

    Unknown numbers are None: a score where none was asked for, G where no gradient was taken.
    """

    index: int  # 0-based, in the order made
    position: int
    by: str  # what chose: "score" (of single tokens) or "gradient"
    top_probability: float
    old_token: int  # the policy's own
    new_token: int
    old_log_probability: float  # nats, under the policy
    new_log_probability: float
    old_gradient: float | None = None  # G, nats
    new_gradient: float | None = None
    old_score: float | None = None  # s of the prefix that ends with the token
    new_score: float | None = None
    scored: int = 0  # tokens whose scores were asked for


CUT_OFF = "cut off"  # the note of a step that a budget cut short
BUDGETS = ("max_calls", "max_item_tokens", "max_item_seconds")  # what may cut a method off


@dataclass(frozen=True)
class Step:
    """Trace of one move of a search: a step of a response, a critique, a revision."""

    index: int
    parent: int | None  # the move that it goes on from; None: the problem
    kind: str  # "step", "value", "critique", ...: what the method calls it
    tokens: tuple[int, ...]  # of this move alone
    text: str
    stop: StopReason
    value: float | None = None  # what the method thinks of it, where it asked
    visits: int = 0
    note: str = ""  # what was wrong with it


@dataclass(frozen=True)
class Outcome:
    """The result of a method on one problem."""

    text: str
    tokens: tuple[int, ...]
    stop: StopReason
    reward: float | None = None  # of the returned response, where it was scored
    drafts: tuple[Draft, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    visited: int = 0  # positions at which a refined distribution was drawn from
    certified: int = 0  # of those: draws that no gradient could change
    positions: int = 0  # positions passed in all sweeps, refined or skipped
    ended: str = (
        "done"  # why the method stopped: done, budget, reward, malformed, or one of BUDGETS
    )
    steps: tuple[Step, ...] = ()
    choices: tuple[Choice, ...] = ()
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def malformed(self) -> int | None:
        """How often the policy wrote what the method could not use; None where nothing is kept.

        Responses that ran on to their greatest length, steps without an end, critiques and
        valuations that say nothing. What a budget cut short is no fault of the policy's.
        """
        if not self.drafts and not self.steps:
            return None
        cut = self.ended in BUDGETS
        drafts = sum(draft.stop == "length" for draft in self.drafts) if not cut else 0
        # Revisions are among the drafts.
        notes = [step.note for step in self.steps if step.note and step.kind != "revision"]
        return drafts + sum(note != CUT_OFF for note in notes)

    def stats(self) -> dict[str, Any]:
        """The ledger and the counts of verdicts, ready for JSON.

        `rejection_rate` is rejected / judged, ties rejected (DESIGN 8); None without candidates.
        """
        judged = len(self.candidates)
        ties = sum(candidate.verdict == "tie" for candidate in self.candidates)
        accepted = sum(candidate.verdict == "accepted" for candidate in self.candidates)
        return {
            **self.ledger.as_dict(),
            "candidates": judged,
            "rejected": judged - accepted,
            "ties": ties,
            "rejection_rate": (judged - accepted) / judged if judged else None,
            "truncated": self.stop in ("length", "step"),
            "malformed": self.malformed,
            "reward": self.reward,
            "ended": self.ended,
        }
