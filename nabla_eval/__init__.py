"""∇-Reasoner and its rivals inside lm-evaluation-harness: run, measure, compare.

Importing this package is cheap: the Python API loads torch only when one of its names is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nabla_eval.analysis.study import frame
    from nabla_eval.api import generate, load_pair, refine
    from nabla_eval.probing.probe import probe
    from nabla_eval.reporting.display import story

__version__ = "0.1.0"
__all__ = ["__version__", "frame", "generate", "load_pair", "probe", "refine", "story"]

_LAZY = {
    "frame": "nabla_eval.analysis.study",
    "generate": "nabla_eval.api",
    "load_pair": "nabla_eval.api",
    "probe": "nabla_eval.probing.probe",
    "refine": "nabla_eval.api",
    "story": "nabla_eval.reporting.display",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
