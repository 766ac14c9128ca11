"""`nabla-eval data`: problem sets for clusters without network, and whether a copy is right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from nabla_eval.cli.options import FOLDER, as_json, option
from nabla_eval.cli.screen import Screen, table
from nabla_eval.errors import DataError
from nabla_eval.terminal import say

if TYPE_CHECKING:
    from nabla_eval.harness.problems.known import Findings
    from nabla_eval.harness.problems.sets import ProblemSet
    from nabla_eval.harness.problems.store import Copy

ONLY = option(
    "--only",
    "One set, such as aime24; may be repeated.  [default: all]",
    "names",
    multiple=True,
    metavar="NAME",
)
STYLES = {"ok": "green", "other wording": "yellow", "wrong": "bold red"}


class Checked(NamedTuple):
    """A copy in a folder and what was found about it; `copy` is None for one that is torn."""

    problems: ProblemSet
    file: Path
    copy: Copy | None
    findings: Findings

    @property
    def wrong(self) -> bool:
        return bool(self.findings.faults)


@click.group()
def data() -> None:
    """The problems that the tasks ask, stored for machines without network.

    Example: nabla-eval data fetch problems
    """


@data.command()
@click.argument("folder", type=FOLDER)
@ONLY
@option("--force", "Also fetch what is there already, and right.", is_flag=True)
@click.pass_context
def fetch(ctx: click.Context, folder: Path, names: tuple[str, ...], force: bool) -> None:
    """Store problem sets from the hub as JSONL files in FOLDER.

    Copy the folder to the cluster, and set NABLA_DATA=FOLDER there.

    Example: nabla-eval data fetch problems --only aime24 --only math500
    """
    from rich.progress import Progress

    from nabla_eval.harness.problems import store
    from nabla_eval.models.hub import hub_answers

    failures, checked = [], []
    with Progress(console=Screen(), transient=True) as bar:
        for problems in bar.track(chosen(names), description="Fetching"):
            here = None if force else check_one(folder, problems)
            if here is None or here.wrong or here.file.name != problems.file:
                try:
                    store.write(folder, store.counted(store.from_hub(problems)))
                except DataError as error:
                    if not hub_answers():
                        raise
                    failures.append(str(error))
                    continue
                here = check_one(folder, problems)
            if here is not None:
                checked.append(here)
    show(folder, checked, failures)
    ctx.exit(1 if failures or any(one.wrong for one in checked) else 0)


@data.command()
@click.argument("folder", type=FOLDER)
@ONLY
@as_json()
@click.pass_context
def check(ctx: click.Context, folder: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Verify the counts, answers and hashes of the problem sets in FOLDER.

    Exit code 1 where something is wrong, with the rows that are.

    Example: nabla-eval data check problems
    """
    from nabla_eval.reporting.tables import json_text

    found = {problems: check_one(folder, problems) for problems in chosen(names)}
    checked = [one for one in found.values() if one is not None]
    missing = [
        f"{problems.file} ({problems.title}) is not there"
        for problems, one in found.items()
        if one is None and names
    ]
    if not checked and not missing:
        raise DataError(
            f"{folder} holds no problem set. Check the folder, or fill it with "
            f"nabla-eval data fetch {folder}."
        )
    if as_json:
        say(json_text(as_dict(folder, checked, missing)), end="")
    else:
        show(folder, checked, missing)
    ctx.exit(1 if missing or any(one.wrong for one in checked) else 0)


def chosen(names: tuple[str, ...]) -> list[ProblemSet]:
    """Return the sets of these names, all without any."""
    from nabla_eval.harness.problems.sets import SETS, problem_set

    return [problem_set(name) for name in names] or list(SETS.values())


def check_one(folder: Path, problems: ProblemSet) -> Checked | None:
    """Return what a folder holds of a set; None for nothing."""
    from nabla_eval.harness.problems import store
    from nabla_eval.harness.problems.known import Findings, examine

    file = store.find(folder, problems)
    if file is None:
        return None
    try:
        copy = store.read(folder, problems)
    except DataError as error:
        return Checked(problems, file, None, Findings((str(error),)))
    return Checked(problems, file, copy, examine(copy))


def as_dict(folder: Path, checked: list[Checked], missing: list[str]) -> dict[str, Any]:
    """Return the findings as plain data."""
    return {
        "folder": str(folder),
        "ok": not missing and not any(one.wrong for one in checked),
        "missing": missing,
        "sets": {
            problems.name: {
                "file": file.name,
                "items": len(copy.items) if copy else None,
                "expected": problems.files[file.name],
                "hash": copy.hash if copy else None,
                "verdict": findings.verdict,
                "faults": list(findings.faults),
                "notes": list(findings.notes),
            }
            for problems, file, copy, findings in checked
        },
    }


def show(folder: Path, checked: list[Checked], failures: list[str]) -> None:
    """Print a table of the sets, then a sentence for everything that is wrong or different."""
    from rich.text import Text

    console, rows, remarks = Screen(), [], []
    for problems, file, copy, findings in checked:
        count = f"{len(copy.items) if copy else '?'} of {problems.items}"
        part = " (part)" if file.name in problems.parts else ""
        verdict = Text(findings.verdict + part, STYLES[findings.verdict])
        rows.append((problems.name, file.name, count, copy.hash if copy else "", verdict))
        found = (*findings.faults, *findings.notes)
        remarks += [f"{file.name}: {remark.rstrip('.')}." for remark in found]
    columns = ("set", "file", "items", "hash", "")
    settings = {"title": f"Problems in {folder}", "box": None, "pad_edge": False}
    console.print(table(columns, rows, right=["items"], **settings))
    for remark in [*remarks, *failures]:
        console.paragraph(remark)
    if checked and not failures and not any(one.wrong for one in checked):
        where = f"\nUse them with NABLA_DATA={folder.resolve()} lm_eval ..."
        console.print(where, soft_wrap=True)
