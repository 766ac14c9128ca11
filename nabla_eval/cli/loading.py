"""A status line on stderr while the libraries of an evaluation load, which takes seconds."""

from __future__ import annotations

from importlib import import_module

# In the order in which lm-eval and nabla_eval import them: what the line says, and the module.
EVALUATION = {
    "lm-eval and datasets": "lm_eval.tasks",
    "torch": "torch",
    "transformers": "transformers.modeling_utils",
    "the engine": "nabla_eval.harness.lm",
}


def load() -> None:
    """Import what an evaluation needs, and name it on a terminal while that takes.

    Elsewhere nothing is printed or imported: whoever needs a module imports it.
    """
    from nabla_eval.cli.screen import Screen

    console = Screen(err=True)
    if not console.is_terminal:
        return
    with console.status("Loading ...") as status:
        for what, module in EVALUATION.items():
            status.update(f"Loading {what} ...")
            import_module(module)
