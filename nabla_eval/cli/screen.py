"""How commands show text of others: rich's console without markup, tables, lists of files."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from nabla_eval.terminal import visible

if TYPE_CHECKING:
    from nabla_eval.reporting.tables import Report
    from nabla_eval.reporting.tables import Table as ReportTable

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

    def report(self, made: Report) -> None:
        """Print the tables that have rows, and what the report says of them."""
        self.tables(table for table in made.tables if table.rows)
        self.sentences("In words", made.sentences)

    def tables(self, made: Iterable[ReportTable]) -> None:
        """Print the tables of a report, each in as many parts as the width asks for."""
        from nabla_eval.reporting.tables import fitting, to_rich

        for table in made:
            for part in fitting(table, self.width):
                view = to_rich(part, self.width)
                lines = Segment.split_lines(self.render(view))
                over = max(Segment.get_line_length(line) for line in lines) - self.width
                self.print()
                # rich makes some tables a column wider than the screen, and cuts that off.
                self.print(view, width=self.width - max(0, over))

    def sentences(self, heading: str, made: Sequence[str]) -> None:
        """Print sentences as a list below a heading; nothing where there are none."""
        from nabla_eval.reporting.text import bullet

        if made:
            self.print(f"\n{heading}", style="bold")
        for sentence in made:
            self.print(bullet(sentence, self.width))

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


@contextmanager
def told_warnings() -> Iterator[list[str]]:
    """Print warnings as paragraphs on stderr, once each; yields their texts."""
    told: list[str] = []

    def tell(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in told:
            told.append(str(message))
            words = Text.assemble(("Warning: ", "yellow"), str(message))
            Screen(err=True).paragraph(words)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = tell
        yield told


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
