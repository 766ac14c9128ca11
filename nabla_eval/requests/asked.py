"""Requests about whole responses: write, judge, differentiate, refine, compose, replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nabla_eval.cost.ledger import Ledger
from nabla_eval.options import DTO, Objective, Sampling, Steps
from nabla_eval.outcome import StopReason
from nabla_eval.randomness import Key
from nabla_eval.requests.problem import Message, Problem


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
    cost: Ledger = field(repr=False, compare=False, default_factory=Ledger)


@dataclass(frozen=True)
class Generate:
    """Roll out a response: from the prompt, or from `prefix.tokens[:keep]` followed by `token`.

    With `until`, the next step of it only, delimiter included: the result's tokens are the prefix
    and that step, so that going on from it needs no tokeniser. With `confidence`, up to and with
    the first token where the policy's most likely one has no more probability than that (at
    temperature 1).
    """

    problem: Problem
    key: Key
    sampling: Sampling
    prefix: Trajectory | None = None
    keep: int = 0
    token: int | None = None
    until: Steps | None = None
    confidence: float | None = None

    @property
    def given(self) -> int:
        """Tokens of the response that it starts from."""
        return self.keep + (self.token is not None)

    @property
    def longest(self) -> int:
        """The most tokens that it may generate."""
        room = max(0, self.problem.max_new_tokens - self.given)
        return room if self.until is None else min(room, self.until.step_tokens)

    @property
    def most_calls(self) -> int:
        """The most model calls that it can cost: one a token."""
        return self.longest


@dataclass(frozen=True)
class RewardScore:
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

    @property
    def most_calls(self) -> int:
        """The most model calls that it can cost."""
        return 1


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

    `rows` are the positions that the gradient is wanted at (none: all), and their norms are taken
    of dL/dz (`norm="logits"`, with p at `temperature`) or of dL/dy (`norm="onehot"`), or not at all
    (`norm=None`): a norm costs a row of length V.
    """

    problem: Problem
    trajectory: Trajectory
    hard: tuple[int, ...]
    objective: Objective
    rows: tuple[int, ...] = ()
    norm: Literal["logits", "onehot"] | None = "logits"
    temperature: float = 1.0

    @property
    def most_calls(self) -> int:
        """The most model calls that it can cost: both models, forward and backward."""
        return 4


@dataclass(frozen=True)
class Refinement:
    """Tokens drawn from the refined distribution at one position, and how it came about."""

    tokens: tuple[int, ...]  # one a key
    probabilities: tuple[float, ...]  # under the refined, filtered distribution
    passes: int = 0  # gradient passes beyond the one that was given
    flips: int = 0  # steps after which some hard token had changed
    moved: float = 0.0  # largest |change| of a logit at the position
    norm: float | None = None  # of the gradient that it starts with, at the position
    cost: Ledger = field(repr=False, compare=False, default_factory=Ledger)


@dataclass(frozen=True)
class Refine:
    """Refine z by DTO with the tokens before `position` committed, then draw there.

    The refined distribution depends on the trajectory and the position alone, so it is made once
    and drawn from once for each of the `keys`. `gradient` is the one at the starting hard sequence
    (None exactly when `dto.steps == 0`), whose `norm` at the position is noted. `relaxation` is the
    temperature of the straight-through softmax (DESIGN 3.2).
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
    norm: Literal["logits", "onehot"] = "logits"

    @property
    def most_calls(self) -> int:
        """The most model calls that it can cost."""
        # The first gradient is given; each later step takes one more at most.
        return 4 * max(0, self.dto.steps - 1)


@dataclass(frozen=True)
class Certified:
    """Draws that no refinement can change: a token a key, None where it depends on the gradient."""

    tokens: tuple[int | None, ...]
    cost: Ledger = field(repr=False, compare=False, default_factory=Ledger)


@dataclass(frozen=True)
class Certify:
    """The draw of `Refine` with the same fields, where it is the same for every gradient.

    Where the optimiser bounds its steps (`dto.certify`), most draws are known without a pass of
    the models; elsewhere none is. Only for draws without top-p and top-k.
    """

    problem: Problem
    trajectory: Trajectory
    position: int
    keys: tuple[Key, ...]
    sampling: Sampling
    dto: DTO
    min_probability: float = 0.0

    @property
    def most_calls(self) -> int:
        """The most model calls that it can cost."""
        return 0


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

    @property
    def most_calls(self) -> int:
        """The most model calls that it can cost."""
        return 0


@dataclass(frozen=True)
class Replay:
    """The trajectory of a given text after `prefix` (or after the prompt): one forward pass.

    For the likelihood of answers, and for steps that were written in another conversation.
    """

    problem: Problem
    text: str
    prefix: Trajectory | None = None

    @property
    def most_calls(self) -> int:
        """The most model calls that it can cost."""
        return 1
