"""The closing table of a run: which documents it is over, and how sure it is at 0 and 100 %."""

from __future__ import annotations

import math

import pytest
from run_folders import record, sample, write_run

from nabla_eval.analysis.intervals import wilson
from nabla_eval.reporting.overview import combine, measure, overview_table, score_text


def failed(doc: int) -> dict[str, object]:
    """What lm-eval logs of a document that our tasks could not answer."""
    line = {**sample(doc, 0.0), "metrics": ["failed"], "failed": 1.0}
    del line["exact_match"]
    return line


@pytest.mark.parametrize("which", [(0,), (1, 3), (0, 1, 2, 3)])
def test_documents_that_failed_are_counted_and_named(tmp_path, which):
    samples = [failed(i) if i in which else sample(i, 1.0) for i in range(4)]
    write_run(tmp_path, [record(i) for i in range(4)], [], samples=samples)
    (measured,) = measure(tmp_path)
    assert measured.failed == tuple(f"toy/{i}" for i in which)
    row = combine("r", [measured, measured])  # two seeds
    assert row["problems"] == 4 - len(which) and row["failed"] == measured.failed * 2
    notes = " ".join(overview_table([combine("r", [measured])]).notes)
    assert f"Left out of r: {len(which)} document" in notes and "toy/" + str(which[-1]) in notes
    if len(which) == 4:
        assert math.isnan(row["value"])
    else:
        assert row["metric"] == "exact_match" and row["value"] == 1.0


def test_nothing_is_said_of_failures_where_there_are_none(tmp_path):
    write_run(tmp_path, [record(i) for i in range(12)], [1.0] * 12)
    (measured,) = measure(tmp_path)
    assert not any("Left out" in note for note in overview_table([combine("r", [measured])]).notes)
    several = [failed(i) for i in range(9)] + [sample(9, 1.0)]
    write_run(tmp_path / "b", [record(i) for i in range(10)], [], samples=several)
    (measured,) = measure(tmp_path / "b")
    assert "9 documents that failed (toy/0, toy/1, toy/2, toy/3, toy/4 and 4 more)" in " ".join(
        overview_table([combine("b", [measured])]).notes
    )


@pytest.mark.parametrize(("score", "shown"), [(1.0, "100.0 ± "), (0.0, "0.0 ± ")])
@pytest.mark.parametrize("problems", [2, 30, 200])
def test_no_table_says_that_all_right_or_all_wrong_is_certain(tmp_path, score, shown, problems):
    write_run(tmp_path, [record(i) for i in range(problems)], [score] * problems)
    (measured,) = measure(tmp_path)
    row = combine("r", [measured])
    text = score_text(row)
    assert text.startswith(shown) and "± 0.0" not in text
    found = wilson(score * problems, problems, freedom=problems - 1)
    assert found.low <= row["value"] - row["se"] or row["value"] + row["se"] <= found.high
    assert 0 < row["se"] < found.high - found.low
