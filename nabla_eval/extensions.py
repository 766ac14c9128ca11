"""Load the experimental methods, which register themselves, where their folder is there."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec


def load(name: str) -> None:
    """Import `nabla_eval.experimental.NAME`; do nothing where `nabla_eval/experimental` is gone.

    Each registry calls it at its end, so that an import of the registry is an import of all of it.
    """
    if find_spec("nabla_eval.experimental") is not None:
        import_module(f"nabla_eval.experimental.{name}")
