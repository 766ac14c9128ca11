"""`nabla-eval report`: from run folders to tables, figures and pages."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from nabla_eval.cli.options import option, options, removed
from nabla_eval.cli.screen import Screen, told_warnings
from nabla_eval.terminal import say

if TYPE_CHECKING:
    from nabla_eval.analysis.runs import Run
    from nabla_eval.reporting.tables import Report

PATH = click.Path(path_type=Path)
TRACES = 200 << 20  # bytes of traces that pages are made of unasked, in half a minute
SHOWN = 2000  # rows of the table of problems on a page
FOLDERS = click.argument("folders", nargs=-1, required=True, type=PATH)
WHICH = options(
    option("--task", "Only this task; repeatable.", "tasks", multiple=True),
    option(
        "--metric",
        "What counts as the score; 'name,filter' picks a filter too.  [default: exact_match]",
    ),
    option("--common", "Use the problems that all runs share, where they differ.", is_flag=True),
)
FORM = options(
    WHICH,
    option(
        "--format",
        "How the tables are written.",
        "form",
        type=click.Choice(("rich", "markdown", "json", "csv")),
        default="rich",
    ),
    option("--json", "Short for --format json.", "as_json", is_flag=True),
    option("--output", "File to write to; with csv, a folder of one file per table.", type=PATH),
    option("--table", "Only this table (its name in the JSON)."),
)


@click.group()
def report() -> None:
    """Tables and figures of one or many run folders, with the control beside each claim.

    A folder may hold one run or a whole study; seeds of one configuration are pooled. Runs come
    from `nabla-eval run`, `nabla-eval sweep`, `nabla-eval demo`, or lm_eval with trace_dir= and
    --output_path set to one folder and --log_samples.

    Example: nabla-eval report accuracy results/demo
    """


@report.command()
@FOLDERS
@FORM
def accuracy(folders: tuple[Path, ...], **given: Any) -> None:
    """Accuracy of each run, differences from its controls, answers that failed.

    Example: nabla-eval report accuracy results/demo --format markdown
    """
    from nabla_eval.reporting.accuracy import accuracy_report

    _report(folders, accuracy_report, **given)


@report.command()
@FOLDERS
@FORM
def rejection(folders: tuple[Path, ...], **given: Any) -> None:
    """Rejection rates beside their controls, and where candidates are accepted (Table 4).

    Example: nabla-eval report rejection results/demo --json
    """
    from nabla_eval.reporting.rejection import rejection_report

    _report(folders, rejection_report, **given)


@report.command()
@FOLDERS
@FORM
def cost(folders: tuple[Path, ...], **given: Any) -> None:
    """Cost per answer, against the controls, and what was saved on the way (Fig. 3, D.2).

    Example: nabla-eval report cost results/demo
    """
    from nabla_eval.reporting.cost import cost_report

    _report(folders, cost_report, **given)


@report.command()
@FOLDERS
@FORM
def scaling(folders: tuple[Path, ...], **given: Any) -> None:
    """Accuracy against model calls over N, and against rivals at equal calls (Fig. 4).

    Example: nabla-eval report scaling results/study --json
    """
    from nabla_eval.reporting.cost import scaling_report

    _report(folders, scaling_report, **given)


@report.command()
@FOLDERS
@FORM
@option(
    "--base",
    "Run to compare with: its name or its folder's.  [default: the one with most neighbours]",
)
def ablation(folders: tuple[Path, ...], base: str | None, **given: Any) -> None:
    """The contribution of each changed option, each run beside its own twin.

    Example: nabla-eval report ablation results/study --base "nabla n=8"
    """
    from nabla_eval.reporting.accuracy import ablation_report

    _report(folders, lambda runs: ablation_report(runs, base), **given)


@report.command()
@FOLDERS
@FORM
def reward(folders: tuple[Path, ...], **given: Any) -> None:
    """Calibration of the reward, reward models against each other, gain per candidate (Table 3).

    Drafts of best-of-N runs are graded again, each on its own.

    Example: nabla-eval report reward results/demo
    """
    from nabla_eval.cli.grading import grader
    from nabla_eval.reporting.reward import reward_report

    _report(folders, lambda runs: reward_report(runs, grader), **given)


@report.command()
@FOLDERS
@FORM
def problems(folders: tuple[Path, ...], **given: Any) -> None:
    """Every answer with its score, the gold answer, candidates and calls; all of them in CSV.

    Example: nabla-eval report problems results/demo --format csv
    """
    from nabla_eval.reporting.problems import problems_report

    _report(folders, problems_report, **given)


@report.command()
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@FORM
def compare(
    a: Path, b: Path, tasks: tuple[str, ...], metric: str | None, common: bool, **form: Any
) -> None:
    """Run A minus run B on the same problems: accuracy, calls, rejection, where they differ.

    Each folder holds one run (or the seeds of one).

    Example: nabla-eval report compare results/demo/nabla results/demo/twin
    """
    from nabla_eval.analysis.study import load_pair
    from nabla_eval.reporting.accuracy import compare_report

    with told_warnings():
        made = compare_report(*load_pair(a, b, tasks=tasks, metric=metric, common=common))
    _write(made, **form)


report.add_command(
    removed(
        "report paper",
        "it audited one paper's printed figures, and is that study's own script now. Try "
        "`python reports/paper/audit.py FILE --output PAGE` in a checkout.",
    )
)


@report.command("all")
@FOLDERS
@option(
    "--output",
    "Folder for report.md, report.html, report.json, csv/, figures/ and traces/.",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
)
@option("--title", "Title of the page.", default="Report")
@option(
    "--traces/--no-traces",
    "Write the trace viewer's pages too, which the table of problems links to.  [default: where "
    f"the traces have less than {TRACES >> 20} MB]",
    default=None,
)
@WHICH
def everything(
    folders: tuple[Path, ...], output: Path, title: str, traces: bool | None, **which: Any
) -> None:
    """Every report at once: an overview first, as a Markdown and an HTML page, JSON, CSV, figures.

    Example: nabla-eval report all results/demo --output results/demo/report
    """
    from nabla_eval.cli.grading import grader
    from nabla_eval.reporting.page import Page, all_reports, facts_of, write_page
    from nabla_eval.reporting.problems import problem_rows, problems_table

    words = ["nabla-eval", "report", "all", *map(str, folders), "--output", str(output)]
    with told_warnings() as told:
        runs = _runs(folders, **which)
        what = f"Analysing {len(runs)} runs"
        with Screen(err=True).status(what) as status:
            made = all_reports(runs, grader, lambda part: status.update(f"{what}: {part}"))
            status.update(f"{what}: pages of traces")
            pages = trace_pages(runs, output, traces)
            index = "traces/index.html" if len(pages) > 1 else None
            status.update(f"{what}: pages and figures")
            table = problems_table(problem_rows(runs, pages), most=SHOWN)
            page = Page(title, shlex.join(words), made, told, facts_of(runs), table, index)
            paths = write_page(page, output)
    console = Screen()
    for each in made:
        shown = each.sentences[:6]
        rest = len(each.sentences) - len(shown)
        more = [f"{rest} more of this section are in {output / 'report.md'}."] if rest else []
        console.sentences(each.title, [*shown, *more])
    pictures = sum(path.suffix == ".png" for path in paths)
    written = ", ".join(
        f"{number} {name}{'s' * (number != 1)}"
        for number, name in ((len(runs), "run"), (pictures, "figure"))
    )
    console.print(f"\n{written}. Written:", style="bold")
    made_here = ["csv/", *["figures/"] * (pictures > 0), *["traces/"] * bool(pages)]
    for name in ("report.html", "report.md", "report.json", *made_here):
        console.print(f"  {output / name}", soft_wrap=True)


def trace_pages(runs: Iterable[Run], output: Path, wanted: bool | None) -> dict[Path, str]:
    """Write the viewer's page of each run folder; returns their addresses by the traces' folder.

    Nothing is written unless `wanted`, or where that is None and the traces are not large.
    """
    from nabla_eval.analysis.folders import traces_of
    from nabla_eval.cli.trace_view import pages_of
    from nabla_eval.reporting.viewer import write_pages

    homes = list(dict.fromkeys(folder for run in runs for folder in run.folders))
    size = sum(f.stat().st_size for home in homes for f in traces_of(home).glob("trace-rank*"))
    if wanted is None and size > TRACES:
        say(f"No pages of traces: they have {size >> 20} MB. --traces writes them.", err=True)
    if not (size <= TRACES if wanted is None else wanted):
        return {}
    pages = pages_of(homes)
    write_pages(pages, output / "traces")
    addresses = (f"traces/{quote(name)}.html" for name in pages)
    return dict(zip(map(traces_of, homes), addresses, strict=True))


def _report(
    folders: Iterable[Path],
    make: Callable[[list[Run]], Report],
    tasks: tuple[str, ...],
    metric: str | None,
    common: bool,
    **form: Any,
) -> None:
    """Load runs, make a report of them, write it as asked."""

    with told_warnings():
        runs = _runs(folders, tasks=tasks, metric=metric, common=common)
        with Screen(err=True).status(f"Analysing {len(runs)} runs"):
            made = make(runs)
    _write(made, **form)


def _runs(folders: Iterable[Path], **which: Any) -> list[Run]:
    """Return the runs of some folders, with a progress bar on a terminal's stderr."""
    from rich.progress import track

    from nabla_eval.analysis.study import load

    def progress(homes: Iterable[Path]) -> Iterable[Path]:
        console = Screen(err=True)
        return track(
            list(homes), "Reading runs", console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip

    return load(folders, **which, progress=progress)


def _write(made: Report, form: str, as_json: bool, output: Path | None, table: str | None) -> None:
    """Write a report to stdout or a file; as CSV to stdout its first table, to a folder all."""
    from nabla_eval.reporting import tables
    from nabla_eval.reporting.text import write_files

    form = "json" if as_json else form
    if table is not None:
        made = replace(made, tables=[made.table(table)], sentences=())
    if form == "rich":
        shown = None if output is None else io.StringIO()
        Screen(shown).report(made)
        text = "" if shown is None else shown.getvalue()
    elif form == "json":
        text = tables.json_text(tables.report_json(made))
    elif form == "markdown":
        text = tables.report_markdown(made)
    else:
        text = tables.to_csv(made.tables[0])
    if output is None:
        say(text, end="")
        if form == "csv" and len(made.tables) > 1:
            names = ", ".join(each.name for each in made.tables[1:])
            first = made.tables[0].name
            say(f"Shown: {first}. Others with --table or --output DIR: {names}.", err=True)
        return
    if form == "csv":
        write_files(output, {f"{each.name}.csv": tables.to_csv(each) for each in made.tables})
    else:
        write_files(output.parent, {output.name: text})
    say(f"Written to {output}.", err=True)
