"""The file of printed figures: read strictly, rendered with what can be checked."""

from __future__ import annotations

import pytest
import yaml

from nabla_eval.errors import DataError
from nabla_eval.reporting.paper import paper_report, read_printed
from nabla_eval.reporting.report import report_markdown

MINIMAL = {
    "paper": "A paper",
    "sources": {"p12": {"what": "the paper", "where": "page 12"}},
    "benchmarks": {"SET": {"problems": 30, "runs": 4, "also": [[30, 1]]}},
    "ours": "ours",
    "accuracy": [
        {"policy": "P", "benchmark": "SET", "source": "p12",
         "cells": {"greedy": "25.0", "rival": "26.6", "ours": "26.7"}},
    ],
    "rejection": {"n": 8, "rows": [{"policy": "P", "source": "p12", "ours": "28.9"}]},
}  # fmt: skip


def write(folder, content) -> str:
    file = folder / "printed.yaml"
    file.write_text(
        content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    )
    return str(file)


def test_cells_and_differences(tmp_path):
    report = paper_report(read_printed(write(tmp_path, MINIMAL)))
    greedy, rival, ours = report.table("accuracy").rows
    assert greedy.grim == "30 of 120" and greedy.possible and greedy.otherwise.startswith("30 × 1")
    assert not rival.possible and ours.grim == "32 of 120"
    assert greedy.se_low < greedy.se_high
    gaps = report.table("differences").rows
    assert [(gap.rival, gap.answers) for gap in gaps] == [("greedy", 2), ("rival", 0)]
    (row,) = report.table("rejection").rows
    assert round(row.baseline_h, 2) == 66.03 and row.baseline is None
    assert "26.6" in report_markdown(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": [{"policy": "P"}]}, "lacks 'benchmark'"),
        ({"sources": {}}, "source 'p12' is not among"),
        ({"benchmarks": {"OTHER": {}}}, "benchmark 'SET' is not among"),
        ({"accuracy": [{**MINIMAL["accuracy"][0], "cells": {"ours": 71.0}}]}, "in quotes"),
        ({"accuracy": [{**MINIMAL["accuracy"][0], "cells": {"ours": "many"}}]}, "no percentage"),
    ],
)
def test_a_file_that_would_mislead_is_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        paper_report(read_printed(write(tmp_path, {**MINIMAL, **change})))


def test_files_that_are_no_such_thing_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_printed(tmp_path / "absent.yaml")
    with pytest.raises(DataError, match="cannot be read"):
        read_printed(write(tmp_path, "a: ["))
    with pytest.raises(DataError, match="lacks paper, sources"):
        read_printed(write(tmp_path, "- 1"))


def test_the_report_that_ships_is_made_from_the_file_that_ships(root):
    report = paper_report(read_printed(root / "reports" / "paper" / "printed.yaml"))
    assert (root / "reports" / "paper.md").read_text() == report_markdown(report)
