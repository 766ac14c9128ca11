"""How commands show text of others: rich's console without markup, tables, lists of files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from nabla_eval.terminal import visible

if TYPE_CHECKING:
    from nabla_eval.reporting import tables

# In the order in which lm-eval and nabla_eval import them: what the line says, and the module.
EVALUATION = {
    "lm-eval and datasets": "lm_eval.tasks",
    "torch": "torch",
    "transformers": "transformers.modeling_utils",
    "the engine": "nabla_eval.harness.lm",
}


class Screen(Console):
    """A console on stdout, stderr or a file, as they are now: `quiet` may redirect them later.

    It reads no markup, emoji codes, links or escapes.
    """

    def __init__(self, file: TextIO | None = None, *, err: bool = False) -> None:
        stream = file or (sys.stderr if err else sys.stdout)
        super().__init__(file=stream, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            if control:
                yield Segment(text, style, control)
            else:
                yield Segment(visible(text), style and style.update_link(None))

    def paragraph(self, text: RenderableType) -> None:
        """Print a paragraph: wrapped on a terminal, in one line where it goes to a log."""
        self.print(text, soft_wrap=not self.is_terminal)

    def tables(self, made: Iterable[tables.Table]) -> None:
        """Print the tables of a report, each in as many parts as the width asks for."""
        from nabla_eval.reporting.tables import fitting, to_rich

        for table in made:
            for part in fitting(table, self.width):
                self.print()
                self.print(to_rich(part))

    def files(self, heading: str, files: Mapping[str, str]) -> None:
        """Print what a folder holds: names, and what is in them."""
        self.print(f"\n{heading}:", style="bold", soft_wrap=True)
        width = max(map(len, files)) + 2
        self.print("\n".join(f"  {name:<{width}}{content}" for name, content in files.items()))


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[RenderableType]],
    *,
    right: Iterable[str] = (),
    **settings: Any,
) -> Table:
    """Return one of rich's tables, in which long text is wrapped and no cell is cut off."""
    made = Table(title_justify="left", **settings)
    for heading in columns:
        justify: Any = "right" if heading in right else "left"
        made.add_column(heading, justify=justify, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def load() -> None:
    """Import what an evaluation needs, and name it on a terminal: that takes seconds.

    Elsewhere nothing is printed or imported: whoever needs a module imports it.
    """
    console = Screen(err=True)
    if not console.is_terminal:
        return
    with console.status("Loading ...") as status:
        for what, module in EVALUATION.items():
            status.update(f"Loading {what} ...")
            import_module(module)
