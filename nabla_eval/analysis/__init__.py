"""From records to estimates with honest intervals (DESIGN 8); nothing here imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nabla_eval.analysis.accuracy import MeanInterval, mean_interval

__all__ = ["MeanInterval", "mean_interval"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562): scipy is not needed to import the package."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nabla_eval.analysis import accuracy

    return getattr(accuracy, name)
