"""The file of printed figures: read strictly, rendered with what can be checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from audit import paper_report
from printed import read_printed
from table_one import _read as read_figures

from nabla_eval.errors import DataError
from nabla_eval.reporting.tables import report_markdown

HERE = Path(__file__).parent
TRANSCRIPTION = HERE.parents[2] / "shared" / "data" / "paper_tables.yaml"

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


def test_fits_are_held_against_luck_and_notes_come_first(tmp_path):
    other = {"policy": "P", "benchmark": "OTHER", "source": "p12", "cells": {"ours": "50.1"}}
    content = {**MINIMAL, "notes": ["First-hand."], "accuracy": [*MINIMAL["accuracy"], other]}
    content["benchmarks"] = {**MINIMAL["benchmarks"], "OTHER": {"problems": 83, "runs": 4}}
    report = paper_report(read_printed(write(tmp_path, content)))
    one, two, every = report.table("luck").rows
    assert (one.benchmark, one.size, one.cells, one.possible) == ("SET", "30 × 4", 3, 2)
    assert one.expected == pytest.approx(3 * 121 / 1001)
    chance = 121 / 1001
    assert one.p == pytest.approx(3 * chance**2 * (1 - chance) + chance**3)
    assert (two.possible, two.p) == (0, 1.0) and two.expected == pytest.approx(333 / 1001)
    assert (every.benchmark, every.cells, every.possible) == ("all", 4, 2)
    assert every.expected == pytest.approx(one.expected + two.expected)
    assert report.sentences[0] == "First-hand." and report.sentences[1].startswith("GRIM: 2 of 4")


@pytest.mark.skipif(not TRANSCRIPTION.is_file(), reason="the optional ../shared/data is absent")
def test_what_ships_is_every_cell_that_the_paper_prints():
    """Against the transcription that the file was made from."""
    tables = yaml.safe_load(TRANSCRIPTION.read_text())
    printed = read_printed(HERE / "printed.yaml")
    names = {"greedy": "Greedy decoding", "SC, N=8": "SC (N=8)", "BoN, N=8": "BoN (N=8)",
             "∇-Reasoner": "nabla-Reasoner (N_max=8)"}  # fmt: skip
    columns = tables["table_1"]["columns"]
    left = {
        (policy, method, benchmark): f"{value:.1f}"
        for policy, rows in tables["table_1"].items()
        if policy not in ("columns", "note")
        for method, values in rows.items()
        for benchmark, value in zip(columns, values, strict=True)
        if value is not None
    }
    assert len(left) == 74
    for block in printed["accuracy"]:
        for method, value in block["cells"].items():
            key = block["policy"], names.get(method, method), block["benchmark"]
            if block["source"] == "table 3":
                assert value == f"{tables['table_3'][block['benchmark']][1]:.1f}"
            else:
                assert left.pop(key) == value
    assert not left
    rates = {row["policy"]: row for row in printed["rejection"]["rows"]}
    for policy, (baseline, ours) in (x for x in tables["table_4"].items() if x[0] != "columns"):
        assert (rates[policy]["baseline"], rates[policy]["ours"]) == (str(baseline), str(ours))
    quoted = " ".join(row["printed"] for row in printed["quoted"])
    figures = [*tables["d_2"].values(), *tables["table_2"]["AMC"], *tables["table_2"]["AIME"]]
    assert all(str(figure) in quoted for figure in figures)


def test_of_the_papers_76_cells_56_are_possible():
    file = HERE / "printed.yaml"
    report = paper_report(read_printed(file), file.parent)
    cells = report.table("accuracy").rows
    assert (len(cells), sum(cell.possible for cell in cells)) == (76, 56)
    luck = {row.benchmark: row for row in report.table("luck").rows}
    # Numbers taken at random would fit AMC's 83 × 4 as often as the printed ones do.
    assert luck["AMC"].p > 0.4 and luck["MATH-500"].p < 0.001 and luck["AIME24"].p < 0.001
    assert any("They fit AMC as often as what is printed." in text for text in report.sentences)


def test_what_exceeds_noise_does_so_after_the_correction_for_the_whole_table(tmp_path):
    """Ten rivals of 500 problems at 5.5 points: alone each exceeds noise, together none does."""
    cells = {"ours": "80.4", **{f"rival {i}": "74.9" for i in range(10)}}
    alone = {**MINIMAL["accuracy"][0], "cells": {"ours": "80.4", "rival 0": "74.9"}}
    sizes = {"benchmarks": {"SET": {"problems": 500, "runs": 1}}}
    for block, verdict in (({**alone, "cells": cells}, "open"), (alone, "exceeds noise")):
        content = {**MINIMAL, **sizes, "accuracy": [block]}
        rows = paper_report(read_printed(write(tmp_path, content))).table("differences").rows
        assert all(row.verdict.startswith(verdict) for row in rows)
        assert all(row.p_holm == pytest.approx(len(rows) * row.p_alike) for row in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": [{"policy": "P"}]}, "lacks benchmark"),
        ({"notes": "one"}, "notes"),
        ({"sources": {}}, "source 'p12' is not among"),
        ({"benchmarks": {"SET": {"problems": 30, "runs": 65}}}, "over 64 runs"),
        ({"benchmarks": {"SET": {"problems": 1000, "runs": 64}}}, "over 64 runs or 50,000"),
        ({"benchmarks": {"SET": {"problems": 0, "runs": 1}}}, "each at least 1"),
        ({"benchmarks": {"SET": {"problems": 1, "runs": 1, "also": [[1]]}}}, "problems and runs"),
        ({"rejection": {"n": 1, "rows": []}}, "rejection.n is 1"),
        ({"benchmarks": {"OTHER": {"problems": 1, "runs": 1}}}, "benchmark 'SET' is not among"),
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
    with pytest.raises(DataError, match="must be a mapping, got a list"):
        read_printed(write(tmp_path, "- 1"))


def test_the_report_that_ships_is_made_from_the_file_that_ships():
    file = HERE / "printed.yaml"
    report = paper_report(read_printed(file), file.parent)
    assert (HERE.parent / "paper.md").read_text() == report_markdown(report)


STUDY = {"accuracy": {"runs": [
    {"run": "greedy", "method": "greedy", "accuracy": 0.5, "se": 0.02, "model_calls": 12.0},
    {"run": "rap a", "method": "rap", "accuracy": 0.8, "se": 0.01, "model_calls": 84.4},
    {"run": "rap b", "method": "rap", "accuracy": 0.6, "se": 0.01, "model_calls": 79.0},
]}}  # fmt: skip
GAP = {"value": 0.118, "low": 0.08, "high": 0.15}
TRAINED = {"rows": [
    {"name": "start", "accuracy": {"value": 0.357, "se": 0.02}},
    {"name": "SFT", "accuracy": {"value": 0.475, "se": 0.02}, "against": {"start": GAP}},
]}  # fmt: skip
ROWS = {
    **MINIMAL,
    "studies": {"search": "search.json", "training": "training.json", "later": "no.json"},
    "command": "lm_eval --model_args ",
    "rows": [
        {"row": "greedy", "options": "method=greedy", "study": "search", "run": "greedy"},
        {"row": "RAP", "options": "method=rap", "study": "search", "method": "rap"},
        {"row": "SFT", "training": "nabla-eval train sft", "study": "training", "run": "SFT"},
        {"row": "GRPO", "options": "x", "study": "later", "run": "GRPO"},
        {"row": "TPO", "options": "method=tpo", "unless": "no words"},
    ],
}


def test_rows_have_printed_cells_our_figures_and_a_command(tmp_path):
    (tmp_path / "search.json").write_text(json.dumps(STUDY))
    (tmp_path / "training.json").write_text(json.dumps(TRAINED))
    report = paper_report(read_printed(write(tmp_path, ROWS)), tmp_path)
    rows = {row.row: row for row in report.table("rows").rows}
    assert rows["greedy"].printed == {"P SET": "25.0"} and rows["RAP"].printed == {}
    assert {name: row.embedded for name, row in rows.items()} == {
        "greedy": "50.0 ± 2.0 at 12 calls",
        "RAP": "rap a: 80.0 ± 1.0 at 84 calls; rap b: 60.0 ± 1.0 at 79 calls",
        "SFT": "47.5 ± 2.0, +11.8 [+8.0, +15.0] against start",
        "GRPO": "not run yet",
        "TPO": "not run: no words",
    }
    commands = dict(report.table("commands").cells())
    assert commands["RAP"] == "lm_eval --model_args method=rap"
    assert commands["SFT"] == "nabla-eval train sft"


def test_a_row_without_its_run_is_refused(tmp_path):
    (tmp_path / "search.json").write_text(json.dumps({"accuracy": {"runs": []}}))
    with pytest.raises(DataError, match="no run of search is 'greedy'"):
        paper_report(read_printed(write(tmp_path, ROWS)), tmp_path)


def test_every_row_of_the_papers_table_has_a_command():
    file = HERE / "printed.yaml"
    report = paper_report(read_printed(file), file.parent)
    names = {row.row for row in report.table("rows").rows}
    assert {"greedy", "SC, N=8", "BoN, N=8", "ToT", "RAP", "TPO", "SFT", "GRPO"} < names
    assert all(row.command for row in report.table("commands").rows)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"[", "cannot be read: .* Run that study again"), (b"[]", "must be a mapping, got a list")],
)
def test_figures_of_a_study_that_are_none(tmp_path, content, said):
    file = tmp_path / "report.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_figures(file)


def test_a_row_of_a_study_that_the_file_does_not_name():
    printed = read_printed(HERE / "printed.yaml")
    with pytest.raises(DataError, match="'none' is not among the file's studies"):
        paper_report({**printed, "rows": [{"row": "greedy", "study": "none"}]}, HERE)
