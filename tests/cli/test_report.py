"""The command: every report in every format, from folders to the same numbers."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from page_reader import Reader
from rich.console import Console
from run_folders import BEST_OF_N, NABLA, candidate, record, write_run

from nabla_eval.analysis.study import load, load_pair
from nabla_eval.cli.grading import grader
from nabla_eval.cli.main import main
from nabla_eval.cli.report import trace_pages
from nabla_eval.reporting.accuracy import called_otherwise, compare_report
from nabla_eval.reporting.page import Page, all_reports, page_html
from nabla_eval.reporting.problems import problem_rows, problems_report
from nabla_eval.reporting.tables import report_json, report_markdown, to_rich
from nabla_eval.reporting.text import jsonable, markdown, printable

# Report -> table -> the keys of its rows, which others read.
KEYS = json.loads(Path(__file__).with_name("report_keys.json").read_text(encoding="utf-8"))
REPORTS = ["accuracy", "rejection", "cost", "scaling", "ablation", "reward"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A small study: ∇-Reasoner at two N, its twin, another rate, best-of-N at three N."""
    root = tmp_path_factory.mktemp("study")
    verdicts = ["accepted", "rejected", "tie", "rejected"]

    def ours(name, right, *, shift=0, calls=30.0, **changes):
        records = [
            record(
                i, config={**NABLA, **changes}, calls=calls + i, text=str(4 + (i >= right)),
                reward=float(i % 5),
                candidates=[
                    candidate(verdicts[(i + j + shift) % 4], position=j + 1, entropy=0.3 + 0.1 * i)
                    for j in range(i % 3)
                ],
            )
            for i in range(12)
        ]  # fmt: skip
        write_run(root / name, records, [float(i < right) for i in range(12)])

    ours("nabla8", 8)
    ours("nabla4", 7, n=4, calls=20.0)
    ours("twin8", 7, shift=1, steps=0, calls=25.0)
    ours("lr", 9, shift=2, lr=0.1)
    for n in (2, 4, 8):
        records = [
            record(i, method="best_of_n", config={**BEST_OF_N, "n": n}, calls=10.0 * n,
                   drafts=[float((i * 3 + j * 5) % 7) for j in range(n)], text="4")
            for i in range(12)
        ]  # fmt: skip
        write_run(root / f"best{n}", records, [float(i < 5 + n / 2) for i in range(12)])
    return root


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["report", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@cache
def stored_by(*arguments):
    """What a report says in JSON."""
    return json.loads(run(*arguments, "--json").stdout)


@pytest.mark.parametrize("name", KEYS)
def test_every_report_in_every_format(study, name, tmp_path):
    folders = [study / "lr", study / "nabla8"] if name == "compare" else [study]
    stored = stored_by(name, *folders)
    assert stored.keys() == KEYS[name].keys()
    for table, keys in KEYS[name].items():
        assert all(sorted(row) == keys for row in stored[table]), (table, stored[table][:1])
        assert stored[table] or table == "models"
    shown = run(name, *folders).stdout
    assert shown.strip() and "…" not in shown  # 80 columns cut no number off
    page = tmp_path / "page.md"
    assert run(name, *folders, "--format", "markdown", "--output", page).stdout == ""
    assert page.read_text().startswith("## ") and "| :---" in page.read_text()
    run(name, *folders, "--format", "csv", "--output", tmp_path / "csv")
    for table, rows in stored.items():
        lines = list(csv.DictReader((tmp_path / "csv" / f"{table}.csv").read_text().splitlines()))
        assert len(lines) == len(rows), table
        for line, row in zip(lines, rows, strict=True):
            numbers = {key: value for key, value in row.items() if isinstance(value, float)}
            assert {key: float(line[key]) for key in numbers} == numbers  # unrounded


def test_the_accuracy_of_runs_says_which_folders_they_are(study):
    some = " ".join(run("accuracy", study / "lr", study / "best4").stdout.split())
    assert "is lr" in some and "best_of_n n=4 is best4" in some and "more." not in some
    (note,) = called_otherwise(load([study]), most=1)
    assert re.fullmatch(r"Run folders: [^;]+ is [^;]+; and \d+ more\.", note)


def test_csv_on_stdout_is_one_table_and_names_the_others(study, tmp_path, monkeypatch):
    first = run("accuracy", study, "--format", "csv")
    assert first.stdout.startswith("run,") and "differences" in first.stderr
    one = run("accuracy", study, "--format", "csv", "--table", "differences")
    assert one.stdout.startswith("measure,") and one.stderr == ""
    monkeypatch.chdir(tmp_path)  # a folder without a name of its own
    run("accuracy", study, "--format", "csv", "--output", ".")
    assert (tmp_path / "differences.csv").read_text() == one.stdout


def test_terminal_markdown_html_and_json_have_the_same_cells_in_every_table(study):
    """The cells are worded once; here they are found again in what each format made of them."""
    pair = load_pair(study / "lr", study / "nabla8")
    runs = load([study])
    reports = [*all_reports(runs, grader), compare_report(*pair), problems_report(runs)]
    assert {table for r in reports for table in ((r.name, t.name) for t in r.tables)} >= {
        (name, table) for name, tables in KEYS.items() for table in tables if table != "models"
    }
    reader = Reader()
    plots = {plot.name: b"" for report in reports for plot in report.plots}
    reader.feed(page_html(Page("t", "c", reports), plots))
    cells = [cell for r in reports for t in r.tables for row in t.cells() for cell in row]
    assert reader.cells == list(map(printable, cells))
    for report in reports:
        page, stored = report_markdown(report), report_json(report)
        for table in report.tables:
            for row in table.cells():
                assert f"| {' | '.join(map(markdown, row))} |" in page
            rows = json.loads(json.dumps(jsonable(table.rows)))
            assert stored[table.name] == rows
            console = Console(file=io.StringIO(), width=400)
            console.print(to_rich(table))
            lines = [line.split() for line in console.file.getvalue().splitlines()]
            assert all(" ".join(row).split() in lines for row in table.cells()), table.name


def test_rejection_json_names_its_controls(study):
    row = next(r for r in stored_by("rejection", study)["runs"] if r["run"] == "nabla n=8")
    assert row["candidates"] == 12 and row["problems"] == 8
    assert row["ci95"][0] < row["rate"] == row["rejected"] / row["candidates"] < row["ci95"][1]
    assert (row["twin"], row["baseline_run"]) == ("nabla twin n=8", "best_of_n n=8")
    assert [round(row[f"baseline_{name}"], 4) for name in ("h", "challengers")] == [0.6603, 0.7546]


def test_all_writes_the_same_numbers_everywhere(study, tmp_path):
    out = tmp_path / "out"
    result = run("all", study, "--output", out, "--title", "Toy <study>")
    assert "report.html" in result.stdout
    stored = json.loads((out / "report.json").read_text())
    page, html = (out / "report.md").read_text(), (out / "report.html").read_text()
    for name in REPORTS:
        alone = stored_by(name, study)
        for table, rows in stored[name].items():
            assert rows, "empty tables are left out"
            assert alone[table] == rows
            text = (out / "csv" / f"{name}_{table}.csv").read_text()
            assert len(list(csv.DictReader(io.StringIO(text)))) == len(rows)
    assert "Toy &lt;study&gt;" in html and "<study>" not in html and html.count("<script") == 1
    assert "http" not in html.split("</style>")[1]
    for figure in (out / "figures").iterdir():
        assert figure.stat().st_size > 1000
        assert f"figures/{figure.stem}.png" in page
    assert {f.suffix for f in (out / "figures").iterdir()} == {".png", ".svg"}
    assert stored["summary"][0] in result.stdout.replace("\n  ", " ")
    sections = re.findall(r'<section id="(\w+)"', html)
    assert sections[0] == "overview" and set(REPORTS) | {"problems"} <= {*sections}


def test_problems_link_into_the_page_of_their_run(study, tmp_path):
    two = tmp_path / "two"
    for seed in (1, 2):  # seeds are one run, with a page for each folder
        records = [record(i, config=NABLA, seed=seed) for i in range(3)]
        write_run(two / f"s{seed}", records, [float(i == seed) for i in range(3)], seed=seed)
    run("all", two, "--output", tmp_path / "out")
    lines = csv.DictReader((tmp_path / "out" / "csv" / "problems.csv").read_text().splitlines())
    rows = [(r["id"], r["seed"], r["score"], r["gold"], r["answer"], r["trace"]) for r in lines]
    assert len(rows) == 6 and len(set(rows)) == 6
    link = "traces/s2.html#problem=toy%2F2%2F0"
    assert ("toy/2/0", "2", "1.0", "4", "4", link) in rows
    html = (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / re.search('href="(traces/index.*?)"', html)[1]).exists()
    assert f'<a href="{link}">2/0</a>' in html
    assert '"toy/2/0"' in (tmp_path / "out" / "traces" / "s2.html").read_text()


@pytest.mark.parametrize("traces", ["--traces", "--no-traces"])
def test_the_files_that_are_named_are_there(study, tmp_path, traces):
    result = run("all", study, "--output", tmp_path / "out", traces)
    named = result.stdout.partition("Written:\n")[2].split()
    assert {Path(path) for path in named} == {*(tmp_path / "out").iterdir()}


def test_pages_of_large_traces_are_written_when_asked_for(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nabla_eval.cli.report.TRACES", 1000)
    runs = load([study / "best2"])
    assert trace_pages(runs, tmp_path, None) == trace_pages(runs, tmp_path, False) == {}
    assert capsys.readouterr().err.count("--traces writes them") == 1
    assert not any(tmp_path.iterdir())
    assert trace_pages(runs, tmp_path, True) == {study / "best2": "traces/best2.html"}
    assert (tmp_path / "traces" / "best2.html").exists()
    assert problem_rows(runs)[0]["trace"] is None


def test_what_a_table_leaves_out_is_said_and_is_in_json_and_csv(tmp_path):
    for name, lr in (("a", 0.1), ("b", 0.2)):
        records = [record(i, config={**NABLA, "lr": lr}) for i in range(13)]
        write_run(tmp_path / name, records, [float(name == "a")] * 13)
    both = "compare", tmp_path / "a", tmp_path / "b"
    for form in ("rich", "markdown"):
        shown = run(*both, "--format", form).stdout
        assert "10 of 13 rows are shown" in shown
        assert "question 9" in shown and "question 10" not in shown
    assert len(stored_by(*both)["apart"]) == 13
    assert run(*both, "--format", "csv", "--table", "apart").stdout.count("question") == 13


@pytest.mark.parametrize(
    ("seeds", "names"), [((0, 1), ("seed 0", "seed 1")), ((0, 0), ("x/run", "y/run"))]
)
def test_runs_of_one_configuration_have_short_names(seeds, names, tmp_path):
    folders = [tmp_path / "deep" / name for name in ("x/run", "y/run")]
    for folder, seed in zip(folders, seeds, strict=True):
        folder.parent.mkdir(parents=True)
        write_run(folder, [record(i, config=NABLA) for i in range(3)], [1.0] * 3, seed=seed)
    row = stored_by("compare", *folders)["differences"][0]
    found = [row[side].rpartition("(")[2].rstrip(")") for side in ("a", "b")]
    assert tuple(found) == names


def test_compare_takes_two_runs(study, tmp_path):
    stored = json.loads(run("compare", study / "lr", study / "nabla8", "--json").stdout)
    row = stored["differences"][0]
    assert (row["a"], row["b"]) == ("nabla n=8 lr=0.1", "nabla n=8 lr=0.01")
    assert (row["wins"], row["losses"], row["p"]) == (1, 0, 1.0)
    assert row["difference"] == pytest.approx(1 / 12)
    assert [entry["problem"] for entry in stored["apart"]] == ["toy/8"]
    shutil.copytree(study / "lr", tmp_path / "copy")
    again = json.loads(run("compare", study / "lr", tmp_path / "copy", "--json").stdout)
    assert again["differences"][0]["a"] != again["differences"][0]["b"]
    assert "several runs" in run("compare", study, study / "lr", code=1).stderr


def test_mistakes_are_answered(study, tmp_path):
    assert "No traces" in run("accuracy", tmp_path, code=1).stderr
    assert "Did you mean" in run("accuracy", study, "--table", "run", code=1).stderr
    assert "There is no run" in run("ablation", study, "--base", "x", code=1).stderr
    assert "nothing to ablate" in run("ablation", study / "best2", code=1).stderr
    (tmp_path / "file").write_text("")
    assert "Cannot write" in run("all", study / "lr", "--output", tmp_path / "file" / "x",
                                 code=1).stderr  # fmt: skip


def test_warnings_are_told_once_and_kept_on_the_page(study, tmp_path):
    both = tmp_path / "both"
    write_run(both / "short", [record(0, config=NABLA)], [1.0])
    result = run("all", study, both, "--common", "--output", tmp_path / "out")
    assert result.stderr.count("do not hold the same problems") == 1
    assert "do not hold the same problems" in (tmp_path / "out" / "report.html").read_text()
