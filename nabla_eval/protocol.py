"""The only words between methods and the engine: requests and their results.

A method is a generator that yields lists of requests and receives their results in order (DESIGN
4). It sees tokens, text and plain numbers. The policy's last hidden states pass through it as an
opaque field that only the engine opens.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from nabla_eval.cost.ledger import Ledger
from nabla_eval.options import DTO, Sampling, Steps
from nabla_eval.outcome import Outcome, StopReason
from nabla_eval.randomness import Key
from nabla_eval.thought import Thought

Message: TypeAlias = tuple[str, str]  # role, content


@dataclass(frozen=True)
class TemplateAffixes:
    """The reward model's token ids before and after the response (its chat template)."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """One prompt to answer, and the key of all its randomness."""

    key: Key
    prompt: tuple[int, ...]  # policy token ids
    affixes: TemplateAffixes
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

    @property
    def shown(self) -> tuple[int, ...]:
        """Tokens that the reward model sees."""
        return self.tokens[: self.scored]


@dataclass(frozen=True)
class Generate:
    """Roll out a response: from the prompt, or from `prefix.tokens[:keep]` followed by `token`.

    With `until`, the next step of it only, delimiter included: the result's tokens are the prefix
    and that step, so that going on from it needs no tokeniser. With `confidence`, up to and with
    the first token where the policy's most likely one has no more probability than that (at
    temperature 1). A model call a token.
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

    most_calls = longest


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

    most_calls: ClassVar[int] = 1


@dataclass(frozen=True)
class GradientNorms:
    """Norms of the gradient of L at positions of a trajectory."""

    norms: Mapping[int, float]
    cost: Ledger = field(repr=False, compare=False, default_factory=Ledger)


@dataclass(frozen=True)
class Differentiate:
    """Norm of the gradient that `Refine` would begin with at `position` (DESIGN 3.4).

    Of dL/dz (`norm="logits"`, with p at `temperature`) or of dL/dy (`norm="onehot"`). Where the
    gradient was not taken before it takes a pass, and then the norms at those of `rows` for which
    the same pass holds come with it.
    """

    problem: Problem
    trajectory: Trajectory
    position: int
    dto: DTO
    rows: tuple[int, ...] = ()
    norm: Literal["logits", "onehot"] = "logits"
    temperature: float = 1.0

    most_calls: ClassVar[int] = 4  # both models, forward and backward


@dataclass(frozen=True)
class Refinement:
    """Tokens drawn from the refined distribution at one position, and how it came about.

    The first is always drawn. Where it is certified nothing is refined, and others whose draws
    depend on the gradient are None.
    """

    tokens: tuple[int | None, ...]  # one a key
    certified: tuple[bool, ...]  # draws that no gradient could change
    probabilities: tuple[float, ...] = ()  # under the refined, filtered distribution
    flips: int = 0  # steps after which some hard token had changed
    moved: float = 0.0  # largest |change| of a logit at the position
    norm: float | None = None  # of the gradient that it starts with, at the position
    ready: bool = False  # the gradient that it starts with is known
    cost: Ledger = field(repr=False, compare=False, default_factory=Ledger)


@dataclass(frozen=True)
class Refine:
    """Refine z by DTO with the tokens before `position` committed, then draw there.

    The refined distribution depends on the trajectory and the position alone, so it is made once
    and drawn from once for each of the `keys`. `relaxation` is the temperature of the
    straight-through softmax (DESIGN 3.2), and `norm` the one that is noted of the first gradient.
    With `certify`, draws that are the same for every gradient (`dto.certify`) are made without one;
    it is for draws without top-p and top-k. `upto` ends it early, for budgets that do not cover the
    rest: with what is certified, or once the first gradient is taken.
    """

    problem: Problem
    trajectory: Trajectory
    position: int
    keys: tuple[Key, ...]
    sampling: Sampling
    dto: DTO
    relaxation: float = 1.0
    min_probability: float = 0.0
    norm: Literal["logits", "onehot"] = "logits"
    certify: bool = False
    upto: Literal["certified", "gradient", "drawn"] = "drawn"

    @property
    def most_calls(self) -> int:
        """The most model calls that it can cost."""
        return 4 * self.dto.steps


@dataclass(frozen=True)
class Prompt:
    """A conversation as a problem of its own, ready for `Generate` and `Replay`."""

    problem: Problem
    cost: Ledger = field(repr=False, compare=False, default_factory=Ledger)


@dataclass(frozen=True)
class Compose:
    """Render messages with the policy's chat template: a question to the policy itself.

    The prompt keeps the problem's key, id and affixes, so that the reward model judges what answers
    it as an answer to the problem. Its `max_new_tokens` are those asked for, or what the context
    leaves; 0 where nothing fits. No model is called.
    """

    problem: Problem
    messages: tuple[Message, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()

    most_calls: ClassVar[int] = 0


@dataclass(frozen=True)
class Replay:
    """The trajectory of a given text after `prefix` (or after the prompt): one forward pass.

    For the likelihood of answers, and for steps that were written in another conversation.
    """

    problem: Problem
    text: str
    prefix: Trajectory | None = None

    most_calls: ClassVar[int] = 1
