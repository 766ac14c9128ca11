"""Where the steps of a response end for a process reward: the rules of the search methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nabla_eval.errors import ConfigError
from nabla_eval.options import DELIMITERS, Steps, coerce

_BROKEN = "\ufffd"  # bytes that are no whole character
_CONTEXT = 4  # tokens before those whose text is looked for


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
        """Return one flag a token."""
        if self.steps.step == "tokens":
            return [(i + 1) % self.steps.step_tokens == 0 for i in range(len(tokens))]
        ends = [False] * len(tokens)
        start: int | None = 0
        while start is not None:
            texts = enumerate(growing(self.decode, tokens[start:]), start)
            start = next((i + 1 for i, text in texts if self.steps.complete(text)), None)
            if start is not None:
                ends[start - 1] = True
        return ends


def growing(decode: Callable[[Sequence[int]], str], tokens: Sequence[int]) -> Iterator[str]:
    """Yield the text of the first token, of the first two, and so on.

    Each is decoded after a few others only: what a token adds depends on no more than its character
    and on whether it is the first.
    """
    settled = before = ""
    window: list[int] = []
    known = 0  # tokens of the window whose text is settled
    for token in tokens:
        window.append(token)
        whole = decode(window)
        text = settled + whole[len(decode(window[:known])) :]
        yield text
        # Bytes that are no character yet are waited for, but no longer than a character is.
        open_ = whole.endswith(_BROKEN) and len(window) <= 4 * _CONTEXT
        if whole == before and not open_:
            window.pop()  # a special token, which leaves no text
        elif len(window) >= 2 * _CONTEXT and not open_:
            settled, window, known = text, window[-_CONTEXT:], _CONTEXT
            whole = decode(window)
        before = whole


def delimiter_of(step_delimiter: str) -> str | None:
    """Return the text that ends every step; None where a pattern or a count does."""
    if step_delimiter.startswith(("regex:", "tokens:")):
        return None
    return DELIMITERS.get(step_delimiter, step_delimiter)


def checked_steps(tokenizer: Any, step_delimiter: str) -> Steps:
    """Return the rule. Raises `ConfigError` where no token ends in the delimiter."""
    step_delimiter = coerce("step_delimiter", step_delimiter, str, "blank_line")
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
