"""How `nabla-eval report` writes: warnings to stderr, a report in the format asked for."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nabla_eval.terminal import say

if TYPE_CHECKING:
    from nabla_eval.reporting.tables import Report

T = TypeVar("T")


@contextmanager
def told_warnings() -> Iterator[list[str]]:
    """Print warnings as paragraphs on stderr, once each; yields their texts."""
    from rich.text import Text

    from nabla_eval.cli.screen import Screen

    told: list[str] = []
    console = Screen(err=True)

    def tell(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in told:
            told.append(str(message))
            console.paragraph(Text.assemble(("Warning: ", "yellow"), str(message)))

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = tell
        yield told


def tracked(what: str) -> Callable[[Iterable[T]], Iterable[T]]:
    """Return a wrapper of things that shows a progress bar for them on a terminal's stderr."""
    from rich.progress import track

    from nabla_eval.cli.screen import Screen

    def progress(things: Iterable[T]) -> Iterable[T]:
        console, listed = Screen(err=True), list(things)
        return track(
            listed, what, console=console, transient=True,
            disable=not console.is_terminal or len(listed) < 2,
        )  # fmt: skip

    return progress


@contextmanager
def stages(what: str, count: int | None = None) -> Iterator[Callable[[str], None]]:
    """A progress bar of some stages on a terminal's stderr, or only that work goes on.

    Yields a function that is told each stage as it begins.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from nabla_eval.cli.screen import Screen

    console = Screen(err=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    begun = 0

    def begin(stage: str) -> None:
        nonlocal begun
        bar.update(task, description=f"{what}: {stage}", completed=begun)
        begun += 1

    with bar:
        task = bar.add_task(what, total=count)
        yield begin


def present(made: Report, options: dict[str, Any]) -> None:
    """Write a report to stdout or --output."""
    from dataclasses import replace

    from nabla_eval.reporting import tables
    from nabla_eval.reporting.text import write_files

    if options["table"] is not None:
        made = replace(made, tables=[made.table(options["table"])], sentences=())
    form = "json" if options["as_json"] else options["form"]
    output: Path | None = options["output"]
    if form == "csv" and output is not None:
        texts = tables.report_csv(made).items()
        write_files(output, {f"{name}.csv": text for name, text in texts})
        say(f"Tables are in {output}.", err=True)
        return
    if form == "rich" and output is None:
        print_rich(made)
        return
    first, *others = made.tables
    if form == "csv":
        text = tables.to_csv(first)
    elif form == "json":
        text = tables.json_text(tables.report_json(made))
    elif form == "markdown":
        text = tables.report_markdown(made)
    else:
        print_rich(made, buffer := io.StringIO())
        text = buffer.getvalue()
    if output is not None:
        write_files(output.parent, {output.name: text})
        say(f"Written to {output}.", err=True)
        return
    say(text, end="")
    if form == "csv" and others:
        names = ", ".join(table.name for table in others)
        say(f"Shown: {first.name}. Others with --table or --output DIR: {names}.", err=True)


def print_rich(made: Report, file: Any = None) -> None:
    """Print a report for reading in a terminal; into a file, without colours."""
    from rich.text import Text

    from nabla_eval.cli.screen import Screen
    from nabla_eval.reporting.text import bullet

    console = Screen(file)
    console.tables(table for table in made.tables if table.rows)
    if made.sentences:
        console.print(Text("\nIn words", style="bold"))
    for sentence in made.sentences:
        console.print(Text(bullet(sentence, console.width)))
