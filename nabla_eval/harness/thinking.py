"""Thinking models: which text of a response is thought, and which is its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from nabla_eval.errors import ConfigError
from nabla_eval.thought import Messages, Thought, opened, opening


@dataclass(frozen=True)
class Thinking:
    """Splits responses into thought and answer, prompt by prompt."""

    thought: Thought | None  # of `think_end_token`
    own: Thought | None = None  # of the tags that the policy has tokens for

    @classmethod
    def of(
        cls,
        end: str | int | None,
        enabled: bool | None,
        decode: Callable[[list[int]], str],
        own: Thought | None = None,
    ) -> Thinking:
        """`end` is a text or a token id, whose text `decode` gives; "" for one that ends responses.

        Where nothing is known to open thoughts, responses open with one exactly if they were asked
        to (`enabled`). Raises `ConfigError` for a token that leaves no text.
        """
        if end is None:
            return cls(None, own)
        text = end if isinstance(end, str) else decode([end])
        if not text:
            raise ConfigError(
                f"think_end_token={end!r} leaves no trace in a response's text, so thoughts could "
                "not be told from answers. Give the text that ends them, such as </think>."
            )
        start = opening(text)
        return cls(Thought(text, start, opened=bool(enabled) and not start))

    def __call__(self, prompt: str, messages: Messages | None = None) -> Thought | None:
        """The thought of one prompt, which many chat templates open themselves.

        Without `think_end_token`, that of the known tags that the prompt opens, or of those that
        the policy has tokens for. `messages` are those that a chat template rendered.
        """
        thought = self.thought
        if thought is None:
            return opened(prompt, messages) or self.own
        return replace(thought, opened=thought.opened or thought.opened_by(prompt, messages))
