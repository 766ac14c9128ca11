"""What goes wrong when a checkpoint is read, told in one paragraph: what, got, try."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from nabla_eval.errors import ModelError, NablaError


@contextmanager
def explained(who: str, name: str, part: str) -> Iterator[None]:
    """Turn what `from_pretrained` raises into one paragraph: what, got, try."""
    try:
        yield
    except NablaError:
        raise
    except Exception as error:  # whatever the readers of a dozen formats make of foreign bytes
        text = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise ModelError(_explain(who, name, part, type(error).__name__, text)) from error


def _explain(who: str, name: str, part: str, kind: str, text: str) -> str:
    what = f"The {who}'s {part} ({name}) cannot be read"
    if re.search(r"trust_remote_code|custom code", text):
        return (
            f"The {who} {name} comes with its own Python code, which is not run. "
            "Read that code, then pass trust_remote_code=True if you trust it."
        )
    if re.search(r"gated|401|403|[Aa]uthoriz|restricted", text):
        return (
            f"{what}: the hub wants a permission. Accept the model's licence on its hub page and "
            "log in (`hf auth login`, or HF_TOKEN), or give a folder with the checkpoint."
        )
    if part == "weights" and re.search(r"no file named .*(safetensors|\.bin)", text):
        return pickle_only(who, name, "no *.safetensors")
    if re.search(r"404|not a valid model identifier|RepositoryNotFound|Repo id must", text):
        return (
            f"{what}: there is no such folder or hub model. Check the name and revision; a private "
            "model also needs a login (`hf auth login`, or HF_TOKEN)."
        )
    if re.search(r"connect|offline|[Nn]etwork|[Tt]imed? ?out|retries|cache", text):
        return (
            f"{what}: it is neither a folder nor in the local cache, and the hub is out of reach. "
            "Check the name and the network, or give a folder with the checkpoint."
        )
    if "mismatched_sizes" in text:
        return f"{what}: their shapes are not those of config.json. Use the config they came with."
    if kind == "SafetensorError":
        return f"{what}: a file is damaged ({text}). Download or save it again."
    advice = "Install what it needs, or choose otherwise" if kind == "ImportError" else "Mend it"
    return f"{what}: {kind}: {text[:300].rstrip('. ')}. {advice}, or use another checkpoint."


def pickle_only(who: str, name: str, found: str) -> str:
    """Message for a checkpoint without safetensors."""
    return (
        f"The {who} {name} has only pickled weights ({found}), which can run any "
        "code when read. Convert them to safetensors, or pass allow_pickle=True if you trust the "
        "source."
    )
