"""Text to token ids and back; and is a loaded tokenizer the one its checkpoint holds?

In texts of responses special tokens are left out, but for those that mark thoughts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nabla_eval.errors import ModelError
from nabla_eval.thought import TAGS, Thought

TEXT = "The answer is \\boxed{12}.\n\n12345 + 67 = x^2, it's ∇f  (b)"


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Return the token ids of a text, with nothing added."""
    try:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()
    except Exception as error:  # a tokenizer's own: half a character, a vocabulary without <unk>
        raise ModelError(
            f"The tokenizer {tokenizer.name_or_path} cannot read {text[:40]!r}: {error}. Mend the "
            "text, or tokenizer.json."
        ) from error


def bos_ids(tokenizer: Any) -> tuple[int, ...]:
    """Return the BOS that the tokenizer itself puts in front of a plain text, if it does."""
    bos = tokenizer.bos_token_id
    ids = tokenizer("a")["input_ids"]
    return (bos,) if bos is not None and ids and ids[0] == bos else ()


def to_be_continued(tokenizer: Any, ids: Sequence[int], text: str) -> tuple[int, ...]:
    """Return the ids of a prompt without those that its tokenizer appends to every text.

    An EOS there (T5, `LlamaTokenizer(add_eos_token=True)`, a template `[BOS] $A [EOS]`) would have
    the policy begin another text. The last tokens of the text itself stay, whatever they are.
    """
    if len(ids) <= len(encode(tokenizer, text)):  # nothing was added
        return tuple(ids)
    full, plain = tuple(tokenizer("a")["input_ids"]), encode(tokenizer, "a")
    starts = range(len(full) - len(plain) + 1)
    start = next((i for i in reversed(starts) if full[i : i + len(plain)] == plain), None)
    appended = 0 if start is None else len(full) - start - len(plain)
    return tuple(ids[: len(ids) - appended])


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of tokens that are no text: the named ones and the special added ones."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}


def decode(tokenizer: Any, ids: Sequence[int], special: bool = False) -> str:
    """Return the text of token ids; `special` keeps special tokens such as the end of turn."""
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
    )
    return text


def own_thought(tokenizer: Any) -> Thought | None:
    """Return the thought of the first known tags that the vocabulary has tokens for."""
    special = special_ids(tokenizer)

    def has(tag: str) -> bool:
        ids = encode(tokenizer, tag)
        single = len(ids) == 1 or not special.isdisjoint(ids)
        return single and decode(tokenizer, ids, special=True) == tag

    return next((Thought(end, start) for start, end in TAGS if has(start) and has(end)), None)


def hidden_ids(tokenizer: Any, thought: Thought | None) -> frozenset[int]:
    """Return tokens that a response's text leaves out: special ones that mark no thought."""
    tags = () if thought is None else (thought.start, thought.end)
    return frozenset(special_ids(tokenizer)).difference(*(encode(tokenizer, tag) for tag in tags))


def shown(tokenizer: Any, ids: Sequence[int], thought: Thought | None) -> str:
    """Return the text of a response, in which thoughts can be told from answers."""
    if thought is None:
        return decode(tokenizer, ids)
    hidden = hidden_ids(tokenizer, thought)
    return decode(tokenizer, [index for index in ids if index not in hidden], special=True)


# --- a checkpoint's own rules -------------------------------------------------------------------

# transformers 5 may build a tokenizer of a model type's own class and take only the vocabulary from
# tokenizer.json: its rules for splitting text are then replaced without a word, and every prompt is
# read wrongly. So both are put to the same text.


def faithful(tokenizer: Any, **hub: Any) -> Any:
    """Return the tokenizer, or the one that its tokenizer.json describes if they differ."""
    if _keeps_rules(tokenizer):
        return tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(tokenizer.name_or_path, **hub)


def check_tokenizer(tokenizer: Any) -> None:
    """Raise `ModelError` where a tokenizer splits text otherwise than its own tokenizer.json."""
    if not _keeps_rules(tokenizer):
        raise ModelError(
            f"transformers loads the tokenizer of {tokenizer.name_or_path} as a "
            f"{type(tokenizer).__name__}, which splits text otherwise than its tokenizer.json. "
            "Load it with transformers.PreTrainedTokenizerFast.from_pretrained."
        )


def _keeps_rules(tokenizer: Any) -> bool:
    """Return whether a tokenizer splits text as the tokenizer.json it was loaded from does."""
    name = getattr(tokenizer, "name_or_path", "")
    generic = type(tokenizer).__name__ in ("TokenizersBackend", "PreTrainedTokenizerFast")
    if generic or not name or not getattr(tokenizer, "is_fast", False):
        return True
    from tokenizers import Tokenizer
    from transformers.utils import cached_file

    try:
        path = cached_file(name, "tokenizer.json", local_files_only=True)
    except (OSError, ValueError):
        return True
    stored = Tokenizer.from_file(str(path))
    text = TEXT + "".join(list(stored.get_vocab(with_added_tokens=False))[:64])
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found == stored.encode(text, add_special_tokens=False).ids
