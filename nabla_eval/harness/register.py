"""Makes lm-eval know the model `nabla` without being told.

lm-eval scans the entry points of the group `lm_eval.models` only after 0.4.13. For 0.4.13, a `.pth`
file (`startup/` in the repository) has Python watch for the first import of `lm_eval.models`, and
then calls `register`. Once a release that scans them is the oldest that `pyproject.toml` allows,
the file goes (docs/maintaining.md).
"""

from __future__ import annotations

NAME = "nabla"
TARGET = "nabla_eval.harness.lm:NablaLM"


def register() -> None:
    """Tell lm-eval's registry where `nabla` is; the class itself is loaded on first use.

    Does nothing where `nabla` is already known, so it may be called twice and beside lm-eval
    versions that scan entry points. Raises `ImportError` where lm-eval is missing.
    """
    # lm-eval fills its registry only while it is empty, so its own models have to go first.
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=TARGET)
