"""Texts of token ids; and is a loaded tokenizer the one its checkpoint holds?

In texts of responses special tokens are left out, but for those that mark thoughts.

transformers 5 may build a tokenizer of a model type's own class and take only the vocabulary from
tokenizer.json: its rules for splitting text are then replaced without a word, and every prompt is
read wrongly. So both are put to the same texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nabla_eval.errors import ModelError
from nabla_eval.models.chat import encode, special_ids
from nabla_eval.thought import TAGS, Thought

TEXT = "The answer is \\boxed{12}.\n\n12345 + 67 = x^2, it's ∇f  (b)"


def faithful(tokenizer: Any, **hub: Any) -> Any:
    """The tokenizer, or the one that its checkpoint's tokenizer.json describes if they differ."""
    if difference(tokenizer) is None:
        return tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(tokenizer.name_or_path, **hub)


def check_tokenizer(tokenizer: Any) -> None:
    """Raise `ModelError` where a tokenizer splits text otherwise than its own tokenizer.json."""
    fault = difference(tokenizer)
    if fault is not None:
        raise ModelError(
            f"transformers loads the tokenizer of {tokenizer.name_or_path} as a "
            f"{type(tokenizer).__name__}, which {fault}. Load it with "
            "transformers.PreTrainedTokenizerFast.from_pretrained, which takes the file as it is."
        )


def difference(tokenizer: Any) -> str | None:
    """How a tokenizer departs from the tokenizer.json it was loaded from; None where it does not.

    None also for tokenizers that were not loaded from such a file.
    """
    path = _own_file(tokenizer)
    if path is None:
        return None
    from tokenizers import Tokenizer

    stored = Tokenizer.from_file(str(path))
    plain = list(stored.get_vocab(with_added_tokens=False))[:64]
    for text in (TEXT, "".join(plain)):
        expected = stored.encode(text, add_special_tokens=False).ids
        got = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if got != expected:
            return (
                f"splits {text[:30]!r}... into {len(got)} tokens where its own tokenizer.json "
                f"makes {len(expected)} others"
            )
    return None


def _own_file(tokenizer: Any) -> Path | None:
    """tokenizer.json of the folder or cached hub model; None for classes that just read it."""
    name = getattr(tokenizer, "name_or_path", "")
    if not name or not getattr(tokenizer, "is_fast", False):
        return None
    if type(tokenizer).__name__ in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        return None
    from transformers.utils import cached_file

    try:
        found = cached_file(name, "tokenizer.json", local_files_only=True)
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found)


# --- texts of responses -------------------------------------------------------------------------


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
