"""Where the steps of a response end for a process reward: the rules of the search methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nabla_eval.config import DELIMITERS, Steps
from nabla_eval.errors import ConfigError


@dataclass(frozen=True)
class StepEnds:
    """Says of each token of a response whether a step ends with it.

    A delimiter may be spread over tokens, so texts are looked at and not ids. Unlike in a search,
    which cuts off what does not end, `step_tokens` is a limit with step=tokens alone: a process
    reward was trained to judge whole steps.
    """

    steps: Steps
    decode: Callable[[Sequence[int]], str]

    def __call__(self, tokens: Sequence[int]) -> list[bool]:
        """One flag a token."""
        ends: list[bool] = []
        start = 0
        for i in range(len(tokens)):
            own = tokens[start : i + 1]
            if self.steps.step == "tokens":
                ends.append(len(own) == self.steps.step_tokens)
            else:
                ends.append(self.steps.complete(self.decode(own)))
            start = i + 1 if ends[-1] else start
        return ends


def delimiter_of(step_delimiter: str) -> str | None:
    """The text that ends every step; None where it is no text, but a pattern or a count."""
    if step_delimiter.startswith(("regex:", "tokens:")):
        return None
    return DELIMITERS.get(step_delimiter, step_delimiter)


def checked_steps(tokenizer: Any, step_delimiter: str) -> Steps:
    """The rule; `ConfigError` where no step would ever end, since no token ends the delimiter."""
    text = delimiter_of(step_delimiter)
    if text is None:
        return Steps.parse(step_delimiter)
    ids = [[index] for index in tokenizer.get_vocab().values()]
    written = tokenizer.batch_decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    if not text or not any(own.endswith(text[-1]) for own in written):
        raise ConfigError(
            f"No token of the policy ends in step_delimiter={step_delimiter!r}, so no step would "
            "ever end. Take what the policy writes between steps: newline, blank_line, semicolon, "
            "regex:PATTERN, tokens:COUNT, or the text itself."
        )
    return Steps.parse(step_delimiter)
