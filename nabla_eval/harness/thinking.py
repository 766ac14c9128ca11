"""Thinking models: which text of a response is thought, and which is its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from nabla_eval.errors import ConfigError
from nabla_eval.requests import Thought

_STARTS = {"</": "<", "[/": "[", "<|end_": "<|begin_"}


@dataclass(frozen=True)
class Thinking:
    """lm-eval's `think_end_token`, made of use to prompts."""

    thought: Thought | None

    @classmethod
    def of(
        cls, end: str | int | None, enabled: bool | None, decode: Callable[[list[int]], str]
    ) -> Thinking:
        """`end` is a text or a token id, whose text `decode` gives.

        Where nothing is known to open thoughts, responses open with one exactly if they were asked
        to (`enabled`). Raises `ConfigError` for a token that leaves no text.
        """
        if end is None:
            return cls(None)
        text = end if isinstance(end, str) else decode([end])
        if not text:
            raise ConfigError(
                f"think_end_token={end!r} leaves no trace in a response's text, so thoughts could "
                "not be told from answers. Give the text that ends them, such as </think>."
            )
        start = opening(text)
        return cls(Thought(text, start, opened=bool(enabled) and not start))

    def __call__(self, prompt: str) -> Thought | None:
        """As it is for one prompt: chat templates of some models open the thought themselves."""
        thought = self.thought
        if thought is None or not thought.start or not prompt.rstrip().endswith(thought.start):
            return thought
        return replace(thought, opened=True)


def opening(end: str) -> str:
    """What opens a thought that ends so: `<think>` for `</think>`; "" where that is not known."""
    for closing, start in _STARTS.items():
        if end.startswith(closing):
            return start + end.removeprefix(closing)
    return ""
