"""What happened on one problem: what methods return, traces store and analyses read.

Field names are the keys of JSON. Each class reads as a mapping too: `candidate["verdict"]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from nabla_eval.cost.ledger import Ledger
from nabla_eval.validation import Index

# "step": only a part of the response was asked for (`Generate.until`), and it ended there.
StopReason: TypeAlias = Literal["eos", "stop", "length", "step"]
Verdict: TypeAlias = Literal["accepted", "rejected", "tie"]


class JsonObject(Mapping[str, Any]):
    """A dataclass that also reads as the mapping that JSON makes of it."""

    def __getitem__(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return (each.name for each in fields(self))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(fields(self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Draft(JsonObject):
    """Trace of one complete response drawn from the prompt."""

    index: Index
    tokens: tuple[Index, ...]
    text: str
    stop: StopReason
    reward: float | None = None  # None where no reward was asked for


@dataclass(frozen=True)
class Candidate(JsonObject):
    """Trace of one judged revision: a draw that differed from the token it would replace."""

    index: Index  # 0-based, in the order judged
    sweep: Index
    position: Index
    entropy: float  # nats, of the policy at the position
    top_probability: float
    gradient_norm: float | None  # None where no gradient was taken
    old_token: Index
    new_token: Index
    old_reward: float  # of the response it was compared with
    new_reward: float
    verdict: Verdict
    tokens: tuple[Index, ...]  # the whole candidate response
    text: str
    stop: StopReason
    flips: Index = 0
    moved: float = 0.0
    certified: bool = False  # no gradient could change the draw (`dto.certify`)
    compared_reward: float | None = None  # where acceptance=released compared with another number
    # Of the tokens and of what stands before them; traces alone have them.
    old_text: str = field(default="", compare=False)
    new_text: str = field(default="", compare=False)
    context: str = field(default="", compare=False)  # of at most `CONTEXT_TOKENS` tokens


@dataclass(frozen=True)
class Choice(JsonObject):
    """Trace of one token that was chosen with the reward model's help while a response was written.

    Unknown numbers are None: a score where none was asked for, G where no gradient was taken.
    """

    index: Index  # 0-based, in the order made
    position: Index
    by: str  # what chose: "score" (of single tokens) or "gradient"
    top_probability: float
    old_token: Index  # the policy's own
    new_token: Index
    old_log_probability: float  # nats, under the policy
    new_log_probability: float
    old_gradient: float | None = None  # G, nats
    new_gradient: float | None = None
    old_score: float | None = None  # s of the prefix that ends with the token
    new_score: float | None = None
    scored: Index = 0  # tokens whose scores were asked for
    old_text: str = field(default="", compare=False)  # traces alone have the texts
    new_text: str = field(default="", compare=False)


CUT_OFF = "cut off"  # the note of a step that a budget cut short
BUDGETS = ("max_calls", "max_item_tokens", "max_item_seconds")  # what may cut a method off


@dataclass(frozen=True)
class Step(JsonObject):
    """Trace of one move of a search: a step of a response, a critique, a revision."""

    index: Index
    parent: Index | None  # the move that it goes on from; None: the problem
    kind: str  # "step", "value", "critique", ...: what the method calls it
    tokens: tuple[Index, ...]  # of this move alone
    text: str
    stop: StopReason
    value: float | None = None  # what the method thinks of it, where it asked
    visits: Index = 0
    note: str = ""  # what was wrong with it


@dataclass(frozen=True)
class Answer(JsonObject):
    """The response that a method returns, and how the method ended."""

    text: str
    tokens: tuple[Index, ...]
    stop: StopReason
    reward: float | None = None  # of the returned response, where it was scored
    ended: str = "done"  # why the method stopped: done, budget, reward, malformed, one of BUDGETS
    visited: Index = 0  # positions at which a refined distribution was drawn from
    # Of those: draws that no gradient could change; traces older than `certify` do not say.
    certified: Index | None = None
    positions: Index = 0  # positions passed in all sweeps, refined or skipped


@dataclass(frozen=True)
class Outcome(Answer):
    """What a method returns for one problem."""

    certified: Index = 0
    drafts: tuple[Draft, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    steps: tuple[Step, ...] = ()
    choices: tuple[Choice, ...] = ()
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def malformed(self) -> int | None:
        """Count what the policy wrote and the method could not use; None where nothing is kept.

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
        """Return the ledger and the counts of verdicts, ready for JSON.

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
