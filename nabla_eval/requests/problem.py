"""A problem as methods see it: tokens, how the reward model is shown them, where answers end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

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
    frame: TemplateAffixes
    max_new_tokens: int
    stop: tuple[str, ...] = ()  # strings that end the answer and are cut from it
    thought: Thought | None = None  # stop strings inside a thought do not count
    text: str = ""  # the prompt as text
    id: str = ""  # task/document/repeat, for traces
    messages: tuple[Message, ...] = ()  # the conversation behind the prompt

    @property
    def question(self) -> str:
        """Return what the user asks: the last message of the conversation's user."""
        asked = [content for role, content in self.messages if role == "user"]
        return asked[-1] if asked else self.text
