"""Makes lm-eval know the model `nabla` without being told.

lm-eval scans the entry points of the group `lm_eval.models` only after 0.4.13. For 0.4.13 the
distribution carries this file a second time, as the top-level module `_nabla_eval_hook`, which a
`.pth` file in site-packages imports whenever Python starts. So this file imports nothing, must cost
a fraction of a millisecond, and must never make Python or lm-eval fail.
"""

import sys

TYPE_CHECKING = False  # typing's own costs more than this whole file
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

NAME = "nabla"
TARGET = "nabla_eval.harness.lm:NablaLM"
WATCHED = "lm_eval.models"  # fills lm-eval's registry when it is imported


def register() -> None:
    """Tell lm-eval's registry where `nabla` is; the class itself is loaded on first use.

    Does nothing where `nabla` is already known, so it may be called twice and beside lm-eval
    versions that scan entry points. Raises ImportError where lm-eval is missing.
    """
    # lm-eval fills its registry only while it is empty, so its own models have to go first.
    import lm_eval.models  # noqa: F401
    from lm_eval.api.registry import model_registry

    if NAME not in model_registry:
        model_registry.register(NAME, target=TARGET)


def install() -> None:
    """Have `register` called right after the first import of `lm_eval.models`."""
    if WATCHED in sys.modules:
        _register_quietly()
    elif not any(getattr(finder, "registers", None) == NAME for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds `lm_eval.models` as the other finders do, and follows its execution once."""

    registers = NAME

    def find_spec(
        self,
        fullname: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        if fullname != WATCHED:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(fullname, path, target)
            if spec is not None:
                self._follow(spec)
                return spec
        return None

    def _follow(self, spec: "ModuleSpec") -> None:
        # The real loader stays in place, with its type and everything that importlib.resources and
        # inspect ask of it; only this one instance's exec_module is replaced, for one execution.
        loader = spec.loader
        execute = getattr(loader, "exec_module", None)
        if execute is None or "exec_module" in getattr(loader, "__dict__", ("exec_module",)):
            return

        def exec_module(module: "ModuleType") -> None:
            execute(module)
            if module.__name__ == WATCHED:
                vars(loader).pop("exec_module", None)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                _register_quietly()

        loader.exec_module = exec_module  # type: ignore[union-attr, method-assign]


def _register_quietly() -> None:
    """Register, or say in the log why not: lm-eval's other models must go on working."""
    try:
        register()
    except Exception as error:
        import logging

        logging.getLogger("nabla_eval").warning(
            "lm-eval does not know the model %r: %r. Is this version of lm-eval supported?",
            NAME,
            error,
        )
