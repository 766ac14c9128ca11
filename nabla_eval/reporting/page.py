"""`report all`: every report that the runs allow, as one page in each format."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from nabla_eval.analysis.calibration import Grade
from nabla_eval.analysis.runs import Run, merged_versions
from nabla_eval.errors import DataError
from nabla_eval.reporting import figures
from nabla_eval.reporting.accuracy import ablation_report, accuracy_report
from nabla_eval.reporting.cost import cost_report, scaling_report
from nabla_eval.reporting.rejection import rejection_report
from nabla_eval.reporting.reward import reward_report
from nabla_eval.reporting.summary import summary_report
from nabla_eval.reporting.tables import (
    Report,
    Table,
    json_text,
    report_csv,
    report_json,
    report_markdown,
    to_csv,
)
from nabla_eval.reporting.text import (
    code,
    markdown,
    printable,
    script_of,
    templates,
    write_files,
)


@dataclass(frozen=True)
class Page:
    """Reports together, with what was done to get them."""

    title: str
    command: str
    reports: Sequence[Report]
    warnings: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    problems: Table | None = None  # in CSV whole, in HTML as many rows as it shows
    side_by_side: str | None = None  # address of the viewer's page with the answers of all runs


def all_reports(
    runs: Sequence[Run],
    grade_for: Callable[[str], Grade | None] = lambda task: None,
    begin: Callable[[str], None] = lambda part: None,
) -> list[Report]:
    """Return the overview, then every report with something in it, with its figures.

    Ablations only where runs differ in one option. `begin` is told each part as its turn comes.
    """
    judging = [run for run in runs if len(run.candidates)]
    begin("accuracy")
    right = accuracy_report(runs)
    begin("rejection")
    rejected = rejection_report(runs)
    rates = rejected.table("runs").rows
    found = [right, replace(rejected, plots=[figures.rejection_plot(rates)] if judging else [])]
    begin("cost")
    spent = cost_report(runs)
    found.append(replace(spent, plots=[figures.cost_plot(spent.table("runs").rows)]))
    begin("scaling")
    scaled = scaling_report(runs)
    found = [summary_report(runs, right, scaled), *found, scaled]
    begin("ablations")
    with suppress(DataError):  # nothing to ablate
        found.append(ablation_report(runs))
    gaining = [run for run in judging if not run.is_twin] or judging
    plots = [figures.gain_plot(gaining)] if gaining else []
    begin("reward")
    found.append(replace(reward_report(runs, grade_for), plots=plots))
    return [replace(each, tables=[t for t in each.tables if t.rows]) for each in found]


def facts_of(runs: Sequence[Run]) -> dict[str, str]:
    """Return what a reader needs to make the same numbers again."""
    tasks = dict.fromkeys(run.task for run in runs)
    sizes = {task: len(next(r for r in runs if r.task == task).scores) for task in tasks}
    seeds = sorted({str(seed) for run in runs for seed in run.seeds})
    versions = merged_versions(run.versions for run in runs)
    policies = sorted({_model(run.models.get("policy")) for run in runs})
    rewards = sorted({_model(run.models["reward"]) for run in runs if "reward" in run.models})
    return {
        "problems": ", ".join(f"{task} {size:,}" for task, size in sizes.items()),
        "runs": f"{len(runs)}",
        "seeds": ", ".join(seeds),
        "policy": ", ".join(policies),
        "reward model": ", ".join(rewards) or "none",
        "versions": ", ".join(f"{k} {'/'.join(v)}" for k, v in sorted(versions.items())),
    }


def _model(name: object) -> str:
    """A model as readers elsewhere know it: where the embedded pair lies on a disk is nobody's."""
    path = Path(str(name))
    embedded = path.parts[-3:-1] == ("embedded", "weights")
    return f"the embedded {path.name}" if embedded else str(name)


def page_markdown(page: Page) -> str:
    """One Markdown page; figures are links to `figures/`."""
    facts = [f"- {markdown(key)}: {markdown(value)}" for key, value in page.facts.items()]
    warned = [f"> **Warning:** {markdown(warning)}\n" for warning in page.warnings]
    parts = [f"# {markdown(page.title)}", f"Made by {code(page.command)}.", *warned]
    for report in page.reports:
        pictures = [
            f"![{markdown(plot.title)}](figures/{plot.name}.png)\n\n{markdown(plot.caption)}\n"
            for plot in report.plots
        ]
        parts += [report_markdown(report), *pictures]
    if page.problems is not None:
        parts.append("## Problems\n\n`csv/problems.csv` has every answer of every run.\n")
    return "\n\n".join([*parts, "## How it was made", "\n".join(facts)]) + "\n"


def page_html(page: Page, drawn: Mapping[str, bytes]) -> str:
    """One self-contained HTML page without requests; `drawn` has each plot's SVG.

    Its only script sorts and searches tables. The policy allows it by its hash.
    """
    images = {name: base64.b64encode(content).decode() for name, content in drawn.items()}
    script, digest = script_of("report.js")
    template = templates().get_template("report.html.jinja")
    return template.render(
        page=page, images=images, printable=printable, script=script, digest=digest
    )


def write_page(page: Page, folder: Path) -> list[Path]:
    """Write `report.md`, `report.html`, `report.json`, `csv/` and `figures/`; returns the paths.

    Raises `DataError` where the folder cannot be written.
    """
    drawn = {plot.name: plot.draw() for report in page.reports for plot in report.plots}
    pictures = {
        f"figures/{name}.{form}": figures.to_bytes(figure, form)
        for name, figure in drawn.items()
        for form in ("png", "svg")
    }
    svg = {name: pictures[f"figures/{name}.svg"] for name in drawn}
    stored = {
        "title": page.title,
        "command": page.command,
        "warnings": list(page.warnings),
        "facts": dict(page.facts),
        "summary": list(page.reports[0].sentences),
        **{report.name: report_json(report) for report in page.reports if report.tables},
    }
    texts = {
        "report.md": page_markdown(page),
        "report.html": page_html(page, svg),
        "report.json": json_text(stored),
    }
    for report in page.reports:
        texts |= {f"csv/{report.name}_{n}.csv": text for n, text in report_csv(report).items()}
    if page.problems is not None:
        texts["csv/problems.csv"] = to_csv(page.problems)
    return write_files(folder, {**texts, **pictures})
