"""Is the framed response what the reward model would read? Chat templates, put to the test.

Templates trim, drop or move what is in a response. Each probe is rendered and tokenised whole, and
the tokens between the frame's two sides must be the response, the whole response, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nabla_eval.errors import ModelError
from nabla_eval.models.chat import Framer, Messages, bos_ids, encode, special_ids
from nabla_eval.requests import Frame

QUESTION: Messages = ({"role": "user", "content": "What is 2+2?"},)
THINKING = "<think>\nTwo and two.\n</think>\n\nFour."
ORDINARY = ("The answer is \\boxed{12}.", "First, $x^2 = 9$.\n\nSo $x = 3$, or ∇f = 0.")
# What templates are known to touch. The frame keeps all of it.
TOUCHY = ("Ends in a line break.\n", "\nStarts with one.", THINKING)


@dataclass(frozen=True)
class RoundTrip:
    """Whether a response stands in the reward model's rendered input exactly as it is framed."""

    response: str
    exact: bool
    reason: str = ""  # why it does not


def round_trip(framer: Framer, response: str, messages: Messages = QUESTION) -> RoundTrip:
    """Compare the frame with the ids of the whole rendered conversation."""
    framer = replace(framer, template=replace(framer.template, delimiter=None))
    frame = framer(messages)
    text = framer.render(messages, response)
    whole = encode(framer.tokenizer, text)
    if framer.plain:
        bos = bos_ids(framer.tokenizer)
        whole = whole if whole[: len(bos)] == bos else bos + whole
        whole += frame.after
    if _spans(framer, frame, whole, response):
        return RoundTrip(response, exact=True)
    return RoundTrip(response, exact=False, reason=_difference(framer, messages, text, response))


def check_frame(framer: Framer) -> tuple[RoundTrip, ...]:
    """Round trips of probe responses, ordinary ones first.

    Raises `ModelError` where an ordinary response is not framed exactly.
    """
    ordinary = [THINKING] if framer.template.thinking else probes(framer.tokenizer)
    trips = [round_trip(framer, response) for response in ordinary]
    wrong = next((trip for trip in trips if not trip.exact), None)
    if wrong is not None:
        raise ModelError(
            "The reward model's chat template does not show a response word for word: of "
            f"{wrong.response!r} {wrong.reason}. {framer.template.advice}"
        )
    touchy = [f"{THINKING}\n"] if framer.template.thinking else TOUCHY
    return (*trips, *(round_trip(framer, r) for r in touchy if _encodable(framer.tokenizer, r)))


def probes(tokenizer: Any) -> list[str]:
    """Texts of plain text that the tokenizer can write, made of its own words if need be."""
    found = [response for response in ORDINARY if _encodable(tokenizer, response)]
    if found:
        return found
    special = special_ids(tokenizer)
    ids = [index for index in sorted(tokenizer.get_vocab().values()) if index not in special]
    drawn = (ids[start :: max(1, len(ids) // 5)][:5] for start in range(min(len(ids), 20)))
    texts = (tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in drawn)
    return [text for text in texts if text.strip() == text and _encodable(tokenizer, text)][:2]


def _encodable(tokenizer: Any, text: str) -> bool:
    return bool(text) and _decode(tokenizer, encode(tokenizer, text)) == text


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return text


def _spans(framer: Framer, frame: Frame, whole: tuple[int, ...], response: str) -> bool:
    start, stop = len(frame.before), len(whole) - len(frame.after)
    if whole[:start] != frame.before or whole[stop:] != frame.after:
        return False
    shown = _decode(framer.tokenizer, whole[start:stop])
    # SentencePiece glues the blank before a word to the word.
    return shown == response or shown.lstrip(" ") == response


def _difference(framer: Framer, messages: Messages, text: str, response: str) -> str:
    bare = response.strip()
    if bare != response and framer.render(messages, bare) == text:
        return "white space at its ends is trimmed; the frame keeps it"
    if "<think>" in response and not framer.plain:
        return "thinking blocks are added, moved or dropped (see the option thinking)"
    if response in text:
        return "tokens merge across its border; the frame keeps them apart"
    return "words are changed"
