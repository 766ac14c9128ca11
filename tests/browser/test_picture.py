"""The picture of a revision that the README shows, in the viewer of eight embedded problems.

`make picture` takes it anew: docs/revision.png.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from chromium import Browser, executable

import nabla_eval as ne
from nabla_eval import embedded
from nabla_eval.analysis.grades import Graded, Grades
from nabla_eval.embedded.countdown import test_problems, verify
from nabla_eval.reporting.story import Assessment, Story, tell
from nabla_eval.reporting.viewer import TracePage, write_pages

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome is installed"),
    pytest.mark.skipif(
        not all(path.is_dir() for path in embedded.paths()), reason="the weights are absent"
    ),
]
SIZE = (1000, 760)


def told() -> list[Story]:
    problems = ["20,14,7=42?", *(problem["prompt"] for problem in test_problems(7))]
    stories = []
    for i, out in enumerate(ne.generate(ne.load_pair(), problems, method="nabla", n=8, seed=2)):

        def grade(text: str, problem: str = problems[i]) -> Graded:
            return Graded(verify(problem, text), text.rpartition("=")[2])

        judged = tuple(grade(each.text) for each in out.trace.candidates)
        grades = Grades(grade(out.trace.drafts[0].text), grade(out.text), judged)
        line = replace(out.record, id=f"nabla_countdown/{i}/0")
        stories.append(tell(line, Assessment(grades=grades)))
    return stories


def test_a_revision_is_seen_at_one_look(chromium: Browser, tmp_path: Path) -> None:
    (page,) = write_pages({"run": TracePage("nabla n=8", told())}, tmp_path)
    chromium.open(page.as_uri())
    picture = Path(os.environ.get("NABLA_PICTURE", tmp_path / "revision.png"))
    chromium.screenshot(picture, scheme="light", width=SIZE[0], height=SIZE[1])
    inside = (
        "(() => { const box = document.querySelector('{}').getBoundingClientRect();"
        f" return box.bottom < {SIZE[1]} && box.right < {SIZE[0]}; }})()"
    )
    for part in (".token.revised", ".step[open] .verdict", "#list button[aria-current]"):
        assert chromium.run(inside.replace("{}", part)), part
    assert chromium.run("document.querySelector('.change').textContent") == "✗ wrong → ✓ right"
    assert 10_000 < picture.stat().st_size < 150_000
