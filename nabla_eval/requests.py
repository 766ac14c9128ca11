"""The only words that methods and the engine share: six requests and their results.

A method is a generator that yields lists of requests and receives their results in order
(DESIGN 4). It sees tokens, text and plain numbers; what lives on the device (hidden states,
gradients) passes through it as opaque fields that only the engine opens.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from nabla_eval.config import DTO, Objective, Sampling, Steps
from nabla_eval.cost.ledger import Ledger
from nabla_eval.randomness import Key

# "step": only a step of the response was asked for (`Generate.until`), and it ended there.
StopReason: TypeAlias = Literal["eos", "stop", "length", "step"]
Verdict: TypeAlias = Literal["accepted", "rejected", "tie"]
Message: TypeAlias = tuple[str, str]  # role, content


@dataclass(frozen=True)
class Frame:
    """The reward model's token ids before and after the response (its chat template)."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Thought:
    """What separates a response's thoughts from its answer (lm-eval's `think_end_token`)."""

    end: str
    start: str = ""  # "" where it is not known
    opened: bool = False  # the prompt has opened one already

    def answer_at(self, text: str) -> int | None:
        """Where the answer begins in a response; None while it is still thinking."""
        last = text.rfind(self.end)
        after = last + len(self.end) if last >= 0 else 0
        open_ = last < 0 and self.opened
        return None if open_ or (self.start and self.start in text[after:]) else after

    def answer(self, text: str) -> str:
        """What a response says after its thoughts: nothing where they never end."""
        begin = self.answer_at(text)
        return "" if begin is None else text[begin:].lstrip() if begin else text


@dataclass(frozen=True)
class Problem:
    """One prompt to answer, and the key of all its randomness."""

    key: Key
    prompt: tuple[int, ...]  # policy token ids
    frame: Frame
    max_new_tokens: int
    stop: tuple[str, ...] = ()  # strings that end the answer and are cut from it
    thought: Thought | None = None  # stop strings inside a thought do not count
    text: str = ""  # the prompt as text
    id: str = ""  # task/document/repeat, for traces
    messages: tuple[Message, ...] = ()  # the conversation behind the prompt

    @property
    def question(self) -> str:
        """What the user asks: the last message of the conversation's user."""
        asked = [content for role, content in self.messages if role == "user"]
        return asked[-1] if asked else self.text


@dataclass(frozen=True)
class Trajectory:
    """A whole response and what the policy knew while sampling it. Lengths are L.

    `tokens` includes the end-of-turn token or the tokens of the stop string; the first `scored`
    of them are what the reward model sees, and `text` is their text with any stop string cut.
    """

    tokens: tuple[int, ...]
    text: str
    scored: int
    stop: StopReason
    argmax: tuple[int, ...]  # the policy's most likely token at each position
    entropy: tuple[float, ...]  # nats, of softmax(z_i) at temperature 1
    top_probability: tuple[float, ...]  # of the argmax, at temperature 1
    key: Key  # the stream this response was drawn from
    log_probability: tuple[float, ...] = ()  # nats, of the tokens, at temperature 1
    certainty: tuple[float, ...] = ()  # nats, KL(uniform || policy) at temperature 1
    states: Any = field(repr=False, compare=False, default=None)  # [L, D] last hidden states
    past: Any = field(repr=False, compare=False, default=None)  # what `Generate` goes on from
    cost: Ledger = field(repr=False, compare=False, default_factory=Ledger)


@dataclass(frozen=True)
class Generate:
    """Roll out a response: from the prompt, or from `prefix.tokens[:keep]` followed by `token`.

    With `until`, the next step of it only, delimiter included: the result's tokens are the prefix
    and that step, so that going on from it needs no tokeniser. `branches` says that others may go
    on from the result: the engine then keeps what it encoded, while there is room.
    """

    problem: Problem
    key: Key
    sampling: Sampling
    prefix: Trajectory | None = None
    keep: int = 0
    token: int | None = None
    until: Steps | None = None
    branches: bool = False

    @property
    def given(self) -> int:
        """Tokens of the response that it starts from."""
        return self.keep + (self.token is not None)

    @property
    def longest(self) -> int:
        """The most tokens that it may generate."""
        room = max(0, self.problem.max_new_tokens - self.given)
        return room if self.until is None else min(room, self.until.step_tokens)


@dataclass(frozen=True)
class Judgement:
    """Reward of one response."""

    reward: float
    prefix_scores: tuple[float, ...] = ()  # a process reward's score after each scored token
    cost: Ledger = field(repr=False, compare=False, default_factory=Ledger)


@dataclass(frozen=True)
class Score:
    """Evaluate r(y|x). `repeat_prompt` reproduces the released code's mis-scored comparison."""

    problem: Problem
    trajectory: Trajectory
    repeat_prompt: bool = False


@dataclass(frozen=True)
class Gradient:
    """Gradient of L at one hard sequence, valid at every position of it (DESIGN 3.6)."""

    hard: tuple[int, ...]
    norms: Mapping[int, float]  # of the rows asked for
    handle: Any = field(repr=False, compare=False, default=None)
    cost: Ledger = field(repr=False, compare=False, default_factory=Ledger)


@dataclass(frozen=True)
class Differentiate:
    """Gradient of L at `hard`, a sequence as long as the trajectory that gives the logits z.

    `rows` are the positions whose norm is wanted, of dL/dz (`norm="logits"`, with p at
    `temperature`) or of dL/dy (`norm="onehot"`).
    """

    problem: Problem
    trajectory: Trajectory
    hard: tuple[int, ...]
    objective: Objective
    rows: tuple[int, ...] = ()
    norm: Literal["logits", "onehot"] = "logits"
    temperature: float = 1.0


@dataclass(frozen=True)
class Refinement:
    """Tokens drawn from the refined distribution at one position, and how it came about."""

    tokens: tuple[int, ...]  # one a key
    probabilities: tuple[float, ...]  # under the refined, filtered distribution
    passes: int = 0  # gradient passes beyond the one that was given
    flips: int = 0  # steps after which some hard token had changed
    moved: float = 0.0  # largest |change| of a logit at the position
    cost: Ledger = field(repr=False, compare=False, default_factory=Ledger)


@dataclass(frozen=True)
class Refine:
    """Refine z by DTO with the tokens before `position` committed, then draw there.

    The refined distribution depends on the trajectory and the position alone, so it is made once
    and drawn from once for each of the `keys`. `gradient` is the one at the starting hard sequence
    (None exactly when `dto.steps == 0`). `relaxation` is the temperature of the straight-through
    softmax (DESIGN 3.2).
    """

    problem: Problem
    trajectory: Trajectory
    position: int
    keys: tuple[Key, ...]
    sampling: Sampling
    dto: DTO
    gradient: Gradient | None = None
    relaxation: float = 1.0
    min_probability: float = 0.0


@dataclass(frozen=True)
class Prompt:
    """A conversation as a problem of its own, ready for `Generate` and `Replay`."""

    problem: Problem
    cost: Ledger = field(repr=False, compare=False, default_factory=Ledger)


@dataclass(frozen=True)
class Compose:
    """Render messages with the policy's chat template: a question to the policy itself.

    The prompt keeps the problem's key, id and frame, so that the reward model judges what answers
    it as an answer to the problem. Its `max_new_tokens` are those asked for, or what the context
    leaves; 0 where nothing fits. No model is called.
    """

    problem: Problem
    messages: tuple[Message, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Replay:
    """The trajectory of a given text after `prefix` (or after the prompt): one forward pass.

    For the likelihood of answers, and for steps that were written in another conversation.
    """

    problem: Problem
    text: str
    prefix: Trajectory | None = None


Request: TypeAlias = Generate | Score | Differentiate | Refine | Compose | Replay
Result: TypeAlias = Trajectory | Judgement | Gradient | Refinement | Prompt


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
    compared_reward: float | None = None  # where acceptance=released compared with another number


CUT_OFF = "cut off"  # the note of a step that `max_calls` cut short


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
    """What a method hands back for one problem."""

    text: str
    tokens: tuple[int, ...]
    stop: StopReason
    reward: float | None = None  # of the returned response, where it was scored
    drafts: tuple[Draft, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    visited: int = 0  # positions at which a refined distribution was drawn from
    positions: int = 0  # positions passed in all sweeps, refined or skipped
    ended: str = "done"  # why the method stopped: done, budget, reward, max_calls, malformed
    steps: tuple[Step, ...] = ()
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def malformed(self) -> int | None:
        """How often the policy wrote what the method could not use; None where nothing is kept.

        Responses that ran on to their greatest length, steps without an end, critiques and
        valuations that say nothing. What `max_calls` cut short is no fault of the policy's.
        """
        if not self.drafts and not self.steps:
            return None
        cut = self.ended == "max_calls"
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


Method: TypeAlias = Generator[list[Request], list[Any], Outcome]
Part: TypeAlias = Generator[list[Request], list[Any], Any]  # of a method, for `yield from`
