"""The tiny policy and reward model that ship with the package, and the task they were made for."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"


def paths() -> tuple[Path, Path]:
    """Folders of the shipped (policy, reward model), each a Hugging Face checkpoint."""
    return WEIGHTS / "policy", WEIGHTS / "reward"
