"""Is a loaded tokenizer the one its checkpoint holds?

transformers 5 may build a tokenizer of a model type's own class and take only the vocabulary from
tokenizer.json: its rules for splitting text are then replaced without a word, and every prompt is
read wrongly. So both are put to the same texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nabla_eval.errors import ModelError

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
