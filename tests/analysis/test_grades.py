"""Grades of responses, and the file that keeps them beside the traces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from told_runs import told_records, write_told_run

from nabla_eval.analysis.grades import FILE, Graded, KeptGrades, graded
from nabla_eval.traces.index import entries, shortened
from nabla_eval.traces.schema import as_record, seal


def ends_in_4(_: Any, text: str) -> Graded:
    return Graded(text.endswith("4"), text[-1:])


SCORES = {"toy/0": [1.0], "toy/1": [0.0], "toy/2": [0.0]}
DOCS = {name: {"target": "4"} for name in SCORES}
WRONG = {name: [1 - score] for name, (score,) in SCORES.items()}


@pytest.mark.parametrize(
    ("scores", "docs", "judge", "right"),
    [
        (SCORES, DOCS, ends_in_4, [(False, True), (True, False), (False, False)]),
        (SCORES, DOCS, None, [(None, True), (None, False), (False, False)]),
        ({}, {}, ends_in_4, [(None, None)] * 3),
        ({"toy/0": [0.5]}, {"toy/0": {}}, ends_in_4, [(False, True), *[(None, None)] * 2]),
        (WRONG, DOCS, ends_in_4, [(None, False), (None, True), (True, True)]),
    ],
    ids=["known", "no grader", "no scores", "a mean over repeats says nothing of one of them",
         "a grader that contradicts the task is not asked further"],
)  # fmt: skip
def test_the_task_scores_the_answer_and_its_grader_the_draft(
    scores: Any, docs: Any, judge: Any, right: list[Any]
) -> None:
    lines = map(shortened, told_records())
    assert [graded(line, scores, docs, judge).right for line in lines] == right


def test_candidates_are_graded_where_they_are_asked_for() -> None:
    line = shortened(told_records()[0])
    assert graded(line, SCORES, DOCS, ends_in_4).judged is None
    found = graded(line, SCORES, DOCS, ends_in_4, ["a+1=9", "a+13=4"])
    assert found.judged == ((False, "9"), (True, "4"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose trace lines have checksums."""
    folder = write_told_run(tmp_path / "run")
    lines = [seal(as_record({**line, "schema": 2})) for line in told_records()]
    (folder / "trace-rank0.jsonl").write_bytes(b"".join(lines))
    return folder


def asked(run: Path, scores: Any = SCORES, rules: str = "r", texts: Any = None) -> list[str]:
    """The texts that are graded when a run is looked at."""
    seen: list[str] = []

    def judge(item: Any, text: str) -> Graded:
        seen.append(text)
        return ends_in_4(item, text)

    with KeptGrades(run, rules) as kept:
        for entry in entries(run):
            kept.get(entry, scores, DOCS, judge, texts)
    return seen


def test_a_response_is_graded_once_until_something_that_it_depends_on_changes(run: Path) -> None:
    first = asked(run)
    assert len(first) == 5 and asked(run) == []
    assert asked(run, texts=["4"]) and asked(run, texts=["4"]) == [] and asked(run) == []
    assert len(asked(run, rules="others")) == 5
    assert len(asked(run, scores=WRONG)) > 0
    assert len(asked(run)) == 0
    other = told_records()[0]
    other["drafts"][0]["text"] = "a+12=4"
    traces = run / "trace-rank0.jsonl"
    rest = traces.read_bytes().splitlines(keepends=True)[1:]
    traces.write_bytes(seal(as_record({**other, "schema": 2})) + b"".join(rest))
    assert asked(run) == ["a+13=4", "a+12=4"]


def test_a_damaged_file_of_grades_or_none_costs_time_alone(run: Path) -> None:
    asked(run)
    file = run / FILE
    whole = file.read_bytes()
    file.write_bytes(b"[1]\n" + whole[:-9])
    assert len(asked(run)) == 1  # the answer of the last line
    file.unlink()
    if os.getuid():
        run.chmod(0o500)
    file.mkdir()  # cannot be written, whoever tries
    assert len(asked(run)) == len(asked(run)) == 5
