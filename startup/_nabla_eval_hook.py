"""Has nabla_eval register itself with lm-eval when lm-eval's models are imported, and check
the command line before that.

Installed beside a `.pth` file that imports it whenever Python starts. So it imports nothing, costs
a fraction of a millisecond, and must never make Python or lm-eval fail. What is registered, and why
this is needed at all, says `nabla_eval/harness/register.py`.
"""

import sys

TYPE_CHECKING = False  # the module typing costs more than this whole file
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

WATCHED = "lm_eval.models"  # fills lm-eval's registry when it is imported
COMMAND_LINE = "lm_eval._cli.run"  # imported first of all by lm-eval's command line, and only by it
BEGUN = "lm_eval.config.evaluate_config"  # imported when the parsed command line begins to run


def install() -> None:
    """Call `nabla_eval.harness.register.register` after the first import of `lm_eval.models`."""
    if WATCHED in sys.modules:
        register_quietly()
    elif not any(getattr(finder, "watcher", None) == __name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, Watcher())


class Watcher:
    """Finds `lm_eval.models` as the other finders do, and acts once, when it has been executed."""

    watcher = __name__

    def find_spec(
        self,
        fullname: str,
        path: "Sequence[str] | None" = None,
        target: "ModuleType | None" = None,
    ) -> "ModuleSpec | None":
        if fullname == BEGUN and COMMAND_LINE in sys.modules:
            check_quickly()
        if fullname != WATCHED:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = None if finder is self or find is None else find(fullname, path, target)
            if spec is not None:
                self.follow(spec.loader)
                return spec
        return None

    def follow(self, loader: object) -> None:
        """Replace `exec_module` of this one loader object, for one execution.

        The loader itself stays in place, with its type and all that `importlib.resources`,
        `inspect` or a reload ask of it. A loader that is a class or allows no attributes is left
        alone.
        """
        own = getattr(loader, "__dict__", None)
        if not isinstance(own, dict) or "exec_module" in own:
            return
        execute = loader.exec_module  # type: ignore[attr-defined]

        def exec_module(module: "ModuleType") -> None:
            execute(module)
            if module.__name__ == WATCHED:
                own.pop("exec_module", None)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                register_quietly()

        own["exec_module"] = exec_module


def register_quietly() -> None:
    """Register, or say in the log why not: lm-eval's other models must go on working."""
    try:
        from nabla_eval.harness.register import register

        register()
    except Exception as error:
        import logging

        logging.getLogger("nabla_eval").warning(
            "lm_eval --model nabla is not available: %r. Reinstall nabla-eval, or check that this "
            "version of lm-eval is supported.",
            error,
        )


def check_quickly() -> None:
    """Let nabla_eval refuse wrong `--model_args` before lm-eval indexes its thousands of tasks."""
    try:
        from nabla_eval.harness.preflight import check_command_line
    except Exception:
        return  # `register_quietly` says so where it matters
    check_command_line()
