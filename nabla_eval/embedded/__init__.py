"""The tiny policies and reward models that ship with the package, and their tasks."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from nabla_eval.errors import ConfigError, suggest

WEIGHTS = Path(__file__).parent / "weights"
PAIRS: Final[Mapping[str, Path]] = {"countdown": WEIGHTS, "words": WEIGHTS / "words"}


def folder(name: str = "countdown") -> Path:
    """Return the folder of a shipped pair and its card. Raises ConfigError for an unknown name."""
    if name not in PAIRS:
        raise ConfigError(
            f"There is no embedded pair {name!r}. {suggest(name, PAIRS)} Folders and hub ids go in "
            "pretrained= and reward=."
        )
    return PAIRS[name]


def meant(policy: str | Path) -> bool:
    """Return whether a policy is an embedded pair's name, or one that is nearly spelled like it."""
    text = str(policy)
    return bool(get_close_matches(text, PAIRS, n=1, cutoff=0.8)) and not Path(text).exists()


def paths(name: str = "countdown") -> tuple[Path, Path]:
    """Return the folders of a shipped (policy, reward model), each a Hugging Face checkpoint."""
    return folder(name) / "policy", folder(name) / "reward"
