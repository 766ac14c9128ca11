"""`nabla-eval trace`: look at what happened on single problems, in the terminal or a browser."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nabla_eval.cli.screen import Screen, told_warnings
from nabla_eval.errors import DataError
from nabla_eval.terminal import say

if TYPE_CHECKING:
    from nabla_eval.cli.trace_view import StoredProblem

CHANGES = ("wrong-right", "right-wrong", "stayed-right", "stayed-wrong")
ORDERS = {
    "file": None,
    "revised": lambda brief: -brief.accepted,
    "candidates": lambda brief: -brief.judged,
    "calls": lambda brief: -brief.calls,
}
_RUN = click.argument("run", type=click.Path(path_type=Path))


@click.group()
def trace() -> None:
    """Look at single problems of a run: drafts, revised tokens, judged candidates.

    RUN is a run folder, as `nabla-eval run`, `nabla-eval sweep` or `nabla-eval demo` write it.

    Example: nabla-eval trace html results/nabla -o pages
    """


@trace.command("list")
@_RUN
@click.option("--filter", "change", type=click.Choice(CHANGES), help="Only these problems.")
@click.option("--order", type=click.Choice(list(ORDERS)), default="file", show_default=True,
              help="By what, the most first.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True,
              help="At most this many.")  # fmt: skip
def list_(run: Path, change: str | None, order: str, limit: int) -> None:
    """List the problems of a run: right or wrong before and after, rewards, candidates.

    Example: nabla-eval trace list results/nabla --filter wrong-right --order revised
    """
    from rich.text import Text

    from nabla_eval.cli.trace_view import problem_lines, problems_of
    from nabla_eval.reporting.story import brief as line_of

    with told_warnings(), problems_of(run) as problems:
        total, key = len(problems), ORDERS[order]
        if key is not None:
            problems.sort(key=lambda problem: key(line_of(problem.entry)))
        # Drafts are graded here: only as many as are shown.
        briefs = (problem.brief() for problem in problems)
        found = (brief for brief in briefs if change in (None, brief.change))
        shown = list(islice(found, limit))
    console = Screen()
    table = Text("\n").join(problem_lines(shown, console.width))
    console.print(table, no_wrap=True, overflow="ellipsis")
    more = " --limit shows more." if len(shown) == limit < total else ""
    console.print(f"{len(shown)} of {total} problems.{more} `nabla-eval trace show` tells one.")


@trace.command()
@_RUN
@click.argument("problem")
@click.option("--full", is_flag=True, help="Whole prompt, whole candidates: long texts are cut.")
def show(run: Path, problem: str, full: bool) -> None:
    """Tell one problem: the response with revised tokens marked, and every candidate.

    PROBLEM is an id as `trace list` prints it (task/document/repeat), or its document's number.

    Example: nabla-eval trace show results/nabla nabla_countdown/7/0
    """
    from nabla_eval.cli.trace_view import problems_of, told

    console = Screen()
    with told_warnings(), problems_of(run) as problems:
        story = _one(problems, problem, run).story()
    for part in told(story, full):
        console.print(part)


@trace.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True,
              help="Folder for the pages.")  # fmt: skip
def html(runs: tuple[Path, ...], output: Path) -> None:
    """Write a page per run that shows every problem in a browser; it needs no network.

    RUNS are run folders, or study folders, whose runs get a page each. With several, index.html
    has them side by side, problem by problem. The page of a large run reads its problems from a
    folder beside it, RUN-problems.

    Example: nabla-eval trace html results/nabla results/twin -o pages
    """
    from nabla_eval.cli.trace_view import pages_of
    from nabla_eval.reporting.viewer import beside, write_pages

    with told_warnings(), Screen(err=True).status("Writing pages"):
        paths = write_pages(pages_of(runs), output)
    for path in paths:
        say(path)
    for folder in filter(Path.exists, map(beside, paths)):
        say(f"{folder.name}/ holds the problems of its page: keep them together.", err=True)


def _one(problems: list[StoredProblem], name: str, run: Path) -> StoredProblem:
    """The problem that a name means. Raises `DataError` where there is none, or several."""
    found = [p for p in problems if p.id == name] or [
        p for p in problems if name in (p.id.rpartition("/")[0], *p.id.split("/")[-2:-1])
    ]
    if not found:
        some = ", ".join(p.id for p in problems[:3])
        raise DataError(f"{run} has no problem {name!r}; it has {some}, ... See `trace list`.")
    if len(found) > 1:
        ids = ", ".join(p.id for p in found[:4])
        raise DataError(f"{name!r} may be any of {ids}. Give one of these.")
    return found[0]
