"""Accessibility by axe-core, where it is installed: `npm install --no-save axe-core`, or NABLA_AXE.

The file is the engine as npm ships it (axe.min.js); it is no part of this project.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chromium import Browser, executable
from run_folders import record, write_run
from told_runs import guided_records, searched_records, told_records

from nabla_eval.analysis.grades import Graded, Grades
from nabla_eval.analysis.study import load
from nabla_eval.reporting.page import Page, all_reports, facts_of, write_page
from nabla_eval.reporting.story import Assessment, tell
from nabla_eval.reporting.viewer import TracePage, write_pages

ROOT = Path(__file__).parents[2]
AXE = Path(os.environ.get("NABLA_AXE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome is installed"),
    pytest.mark.skipif(not AXE.is_file(), reason=f"axe-core is not at {AXE} (see NABLA_AXE)"),
]
SERIOUS = """axe.run(document).then((found) => found.violations
  .filter((rule) => ["serious", "critical"].includes(rule.impact))
  .map((rule) => `${rule.id}: ${rule.help}: ${rule.nodes.map((node) => node.html).join(" ")}`)
  .concat(found.passes.length > 9 ? [] : [`only ${found.passes.length} rules apply`]))"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind of page, with every kind of content."""
    folder = tmp_path_factory.mktemp("pages")
    known = Assessment(
        gold="4", grades=Grades(Graded(False, "7"), Graded(True, "4"), (Graded(True, "4"),) * 4)
    )
    drafts = record(0, drafts=[0.5, 1.0, -1.0], method="best_of_n", text="long " * 300)
    runs = {
        "nabla": told_records(),
        "best": [drafts],
        "search": [*searched_records(), *guided_records()],
    }
    made = {
        name: TracePage(name, [tell(each, known) for each in records], {"n": "8"})
        for name, records in runs.items()
    }
    paths = {path.stem: path for path in write_pages(made, folder / "traces")}
    for name, method in (("a", "nabla"), ("b", "best_of_n")):
        lines = [record(i, method=method, drafts=[0.0, 1.0]) for i in range(12)]
        write_run(folder / name, lines, [float(i % 3 > 0) for i in range(12)])
    found = load([folder / "a", folder / "b"])
    write_page(Page("Report", "made", all_reports(found), [], facts_of(found)), folder / "report")
    return {**paths, "report": folder / "report" / "report.html"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["nabla", "best", "search", "index", "report"])
def test_axe_finds_no_serious_fault(
    chromium: Browser, pages: dict[str, Path], name: str, scheme: str
) -> None:
    chromium.open(pages[name].as_uri())
    chromium.ask(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    chromium.run("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    chromium.run(AXE.read_text(encoding="utf-8") + ";0")
    assert chromium.run(SERIOUS) == []
    chromium.run("document.documentElement.removeAttribute('lang')")
    assert any("html-has-lang" in fault for fault in chromium.run(SERIOUS))
