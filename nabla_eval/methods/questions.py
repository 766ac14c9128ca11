"""Questions to the policy in words: prompts as files, and the replies to them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from nabla_eval.errors import ConfigError, suggest
from nabla_eval.methods.samples import sigmoid
from nabla_eval.options import Options, Sampling, require
from nabla_eval.protocol import Compose, Generate, Part, Problem, Replay, Request, Trajectory
from nabla_eval.randomness import Key
from nabla_eval.thought import spoken as after_thoughts
from nabla_eval.validation import UNREADABLE, text_of

# Prompt files and what each fills in.
PLACES = {
    "tot_value": ("question", "response"),
    "tot_vote": ("question", "responses"),
    "tot_propose": ("question", "response", "count"),
    "rap_step": ("question", "response", "step"),
    "tpo_loss": ("question", "chosen", "rejected"),
    "tpo_gradient": ("question", "chosen", "critique"),
    "tpo_update": ("question", "chosen", "gradient"),
}


@dataclass(frozen=True, kw_only=True)
class Prompts(Options):
    """Where the prompts are; files of a folder take the place of those that the package has."""

    prompts: str | None = None  # a folder with some of tot_value.txt, tpo_loss.txt, ...

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts is None:
            return
        # os.path: a text that is too long for a path is no folder, and no error
        require(os.path.isdir(self.prompts), "prompts", self.prompts, "a folder of prompt files")
        for file in sorted(Path(self.prompts).glob("*.txt")):
            if file.stem not in PLACES:
                raise ConfigError(f"prompts: {file} is no prompt. {suggest(file.stem, PLACES)}")
            self.text(file.stem)

    def text(self, name: str) -> str:
        """A prompt with its places still open. Raises `ConfigError` where one is missing."""
        text = _read(name, self.prompts)
        missing = [place for place in PLACES[name] if f"{{{place}}}" not in text]
        if missing:
            raise ConfigError(
                f"The prompt {name}.txt in {self.prompts} lacks {{{missing[0]}}}. It needs each of "
                f"{', '.join(f'{{{place}}}' for place in PLACES[name])} once."
            )
        return text

    def fill(self, name: str, problem: Problem, **values: str) -> str:
        """The prompt about a problem, filled in; what is filled in is not looked into."""
        values["question"] = problem.question
        pattern = "|".join(re.escape(f"{{{place}}}") for place in values)
        return re.sub(pattern, lambda match: values[match[0][1:-1]], self.text(name))


@cache
def _read(name: str, folder: str | None) -> str:
    if folder is not None and (file := Path(folder) / f"{name}.txt").is_file():
        try:
            return text_of(file).strip()
        except UNREADABLE as error:
            said = f"prompts: {file} cannot be read: {error}. Save it as UTF-8."
            raise ConfigError(said) from error
    source = files("nabla_eval.methods") / "prompts" / f"{name}.txt"
    return source.read_text(encoding="utf-8").strip()


def ask(
    problem: Problem,
    questions: Sequence[str],
    keys: Sequence[Key],
    sampling: Sampling,
    reply_tokens: int | None,
    most: int,
) -> Part:
    """Put questions to the policy, each on its own; returns one reply each.

    A reply has at most `reply_tokens` tokens: None allows those of a response, `most` at most.
    None in place of a reply says that its question leaves no room for one in the context.
    """
    longest = min(most, problem.max_new_tokens) if reply_tokens is None else reply_tokens
    prompts = yield [Compose(problem, (("user", text),), longest) for text in questions]
    fits = [prompt.problem.max_new_tokens > 0 for prompt in prompts]
    asked: list[Request] = [
        Generate(prompt.problem, key, sampling)
        for prompt, key, fit in zip(prompts, keys, fits, strict=True)
        if fit
    ]
    replies = (yield asked) if asked else []
    following = iter(replies)
    return [next(following) if fit else None for fit in fits]


def prefer(problem: Problem, questions: Sequence[str], answers: tuple[str, str]) -> Part:
    """The policy's probability of the first of two answers to each question, given one of them.

    1/2 where a question does not fit the context. Two scorings a question.
    """
    prompts = yield [Compose(problem, (("user", text),), 8) for text in questions]
    rooms = [prompt.problem for prompt in prompts]
    asked = [i for i, room in enumerate(rooms) if room.max_new_tokens == 8]
    shares = [0.5] * len(rooms)
    if asked:
        written = yield [Replay(rooms[i], answer) for i in asked for answer in answers]
        sums = [sum(trajectory.log_probability) for trajectory in written]
        for i, one, other in zip(asked, sums[::2], sums[1::2], strict=True):
            shares[i] = sigmoid(one - other)
    return shares


def flaw(reply: Trajectory | None) -> str:
    """Return what keeps a reply from being used, or ""."""
    if reply is None:
        return "no room left in the context"
    if reply.stop == "length":
        return "runaway length"
    return "" if spoken(reply) else "empty"


def spoken(reply: Trajectory | None) -> str:
    """Return what a reply says after its thoughts."""
    return "" if reply is None else after_thoughts(reply.text).strip()
