"""`nabla-eval report`: from run folders to tables, figures and pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nabla_eval.cli.options import removed
from nabla_eval.cli.report_output import present, stages, told_warnings, tracked

if TYPE_CHECKING:
    from nabla_eval.analysis.runs import Run
    from nabla_eval.reporting.tables import Report

F = TypeVar("F", bound=Callable[..., Any])
FORMATS = ("rich", "markdown", "json", "csv")

_FOLDERS = click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
_WHICH = (
    click.option("--task", "tasks", multiple=True, help="Only this task; repeatable."),
    click.option("--metric", default=None,
                 help="What counts as the score; 'name,filter' picks a filter too.  "
                      "[default: exact_match]"),
    click.option("--common", is_flag=True,
                 help="Use the problems that all runs share, where they hold different ones."),
)  # fmt: skip
_FORM = (
    click.option("--format", "form", type=click.Choice(FORMATS), default="rich",
                 show_default=True, help="How the tables are written."),
    click.option("--json", "as_json", is_flag=True, help="Short for --format json."),
    click.option("--output", type=click.Path(path_type=Path), default=None,
                 help="File to write to; with csv, a folder of one file per table."),
    click.option("--table", default=None, help="Only this table (its name in the JSON)."),
)  # fmt: skip


@click.group()
def report() -> None:
    """Tables and figures of one or many run folders, with the control beside each claim.

    A folder may hold one run or a whole study; seeds of one configuration are pooled. Runs come
    from `nabla-eval run`, `nabla-eval sweep`, `nabla-eval demo`, or lm_eval with trace_dir= and
    --output_path set to one folder and --log_samples.

    Example: nabla-eval report accuracy results/demo
    """


def which_options(command: F) -> F:
    """Add the options that choose tasks, metric and problems."""
    for option in reversed(_WHICH):
        command = option(command)
    return command


def common_options(command: F) -> F:
    """Add the options that every single report has."""
    for option in reversed(_FORM):
        command = option(command)
    return which_options(command)


# Reports that take no options of their own: their file, what they tell, and an example.
_PLAIN = {
    "accuracy": ("accuracy",
                 "Accuracy of each run, differences from its controls, answers that failed.",
                 "results/demo --format markdown"),
    "rejection": ("rejection", "Rejection rates beside their controls, and where candidates are "
                  "accepted (Table 4).", "results/demo --json"),
    "cost": ("cost", "Cost per answer, against the controls, and what was saved on the way "
             "(Fig. 3, D.2).", "results/demo"),
    "scaling": ("cost", "Accuracy against model calls over N, and against rivals at equal calls "
                "(Fig. 4).", "results/study --json"),
}  # fmt: skip


def _plain(name: str) -> click.Command:
    """Return the command of a report that takes no options of its own."""
    file, told, example = _PLAIN[name]

    def command(folders: tuple[Path, ...], **options: Any) -> None:
        module = import_module(f"nabla_eval.reporting.{file}")
        _show(folders, getattr(module, f"{name}_report"), options)

    told = f"{told}\n\nExample: nabla-eval report {name} {example}"
    return click.command(name, help=told)(_FOLDERS(common_options(command)))


for _name in _PLAIN:
    report.add_command(_plain(_name))


@report.command()
@_FOLDERS
@common_options
@click.option("--base", default=None,
              help="Run to compare with: its name or its folder's.  "
                   "[default: the one with most neighbours]")  # fmt: skip
def ablation(folders: tuple[Path, ...], base: str | None, **options: Any) -> None:
    """The contribution of each changed option, each run beside its own twin.

    Example: nabla-eval report ablation results/study --base "nabla n=8"
    """
    from nabla_eval.reporting.accuracy import ablation_report

    _show(folders, lambda runs: ablation_report(runs, base), options)


@report.command()
@_FOLDERS
@common_options
def reward(folders: tuple[Path, ...], **options: Any) -> None:
    """Calibration of the reward, reward models against each other, gain per candidate (Table 3).

    Drafts of best-of-N runs are graded again, each on its own.

    Example: nabla-eval report reward results/demo
    """
    from nabla_eval.cli.grading import grader
    from nabla_eval.reporting.reward import reward_report

    graded = tracked("Grading runs")
    _show(folders, lambda runs: reward_report(runs, grader, graded), options, bar=False)


@report.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@common_options
def compare(a: Path, b: Path, **options: Any) -> None:
    """Run A minus run B on the same problems: accuracy, calls, rejection, where they differ.

    Each folder holds one run (or the seeds of one).

    Example: nabla-eval report compare results/demo/nabla results/demo/twin
    """
    from nabla_eval.analysis.study import load_pair
    from nabla_eval.reporting.accuracy import compare_report

    with told_warnings():
        made = compare_report(*load_pair(a, b, **_which(options)))
    present(made, options)


report.add_command(
    removed(
        "report paper",
        "it audited one paper's printed figures, and is that study's own script now. Try "
        "`python reports/paper/audit.py FILE --output PAGE` in a checkout.",
    )
)


@report.command("all")
@_FOLDERS
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for report.md, report.html, report.json, csv/ and figures/.",
)
@click.option("--title", default="Report", show_default=True, help="Title of the page.")
@which_options
def everything(folders: tuple[Path, ...], output: Path, title: str, **options: Any) -> None:
    """Every report at once: a Markdown page, a self-contained HTML page, JSON, CSV, figures.

    Example: nabla-eval report all results/demo --output results/demo/report
    """
    import shlex

    from rich.text import Text

    from nabla_eval.cli.grading import grader
    from nabla_eval.cli.screen import Screen
    from nabla_eval.reporting.page import PARTS, Page, all_reports, facts_of, write_page
    from nabla_eval.reporting.text import bullet

    words = ["nabla-eval", "report", "all", *map(str, folders), "--output", str(output)]
    console = Screen()
    with told_warnings() as told:
        runs = load_runs(folders, options)
        with stages(f"Analysing {len(runs)} runs", PARTS + 1) as begin:
            made = all_reports(runs, grader, begin)
            begin("pages and figures")
            page = Page(title, shlex.join(words), made, told, facts_of(runs))
            paths = write_page(page, output)
    for each in made:
        if each.sentences:
            console.print(Text(f"\n{each.title}", style="bold"))
        for sentence in each.sentences[:6]:
            console.print(Text(bullet(sentence, console.width)))
    pictures = sum(path.suffix == ".png" for path in paths)
    console.print(Text(f"\n{len(runs)} runs, {pictures} figures. Written:", style="bold"))
    for name in ("report.html", "report.md", "report.json", "csv/", "figures/"):
        console.print(Text(f"  {output / name}"), soft_wrap=True)


def _show(
    folders: Iterable[Path],
    make: Callable[[list[Run]], Report],
    options: dict[str, Any],
    bar: bool = True,
) -> None:
    """Load, make the report, write it as asked; without `bar`, `make` shows its own progress."""
    with told_warnings():
        runs = load_runs(folders, options)
        with stages(f"Analysing {len(runs)} runs") if bar else nullcontext():
            made = make(runs)
    present(made, options)


def _which(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("metric", "common", "tasks")}


def load_runs(folders: Iterable[Path], options: dict[str, Any]) -> list[Run]:
    """Return the runs of some folders, with a progress bar on a terminal's stderr."""
    from nabla_eval.analysis.study import load

    return load(folders, **_which(options), progress=tracked("Reading runs"))
