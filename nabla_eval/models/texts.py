"""Texts of responses: special tokens are left out, but for those that mark thoughts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nabla_eval.models.chat import encode, special_ids
from nabla_eval.thought import TAGS, Thought


def decode(tokenizer: Any, ids: Sequence[int], special: bool = False) -> str:
    """Text of token ids; `special` keeps special tokens such as the end of turn."""
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
    )
    return text


def own_thought(tokenizer: Any) -> Thought | None:
    """The thought of the first known tags that the vocabulary has tokens for."""
    special = special_ids(tokenizer)

    def has(tag: str) -> bool:
        ids = encode(tokenizer, tag)
        single = len(ids) == 1 or not special.isdisjoint(ids)
        return single and decode(tokenizer, ids, special=True) == tag

    return next((Thought(end, start) for start, end in TAGS if has(start) and has(end)), None)


def hidden_ids(tokenizer: Any, thought: Thought | None) -> frozenset[int]:
    """Tokens that the text of a response leaves out: special ones that mark no thought."""
    tags = () if thought is None else (thought.start, thought.end)
    return frozenset(special_ids(tokenizer)).difference(*(encode(tokenizer, tag) for tag in tags))


def shown(tokenizer: Any, ids: Sequence[int], thought: Thought | None) -> str:
    """The text of a response, in which thoughts can be told from answers."""
    if thought is None:
        return decode(tokenizer, ids)
    hidden = hidden_ids(tokenizer, thought)
    return decode(tokenizer, [index for index in ids if index not in hidden], special=True)
