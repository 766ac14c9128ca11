"""`nabla-eval trace` on a run whose stories are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from run_folders import record, sample, write_run
from told_runs import IDS, guided_records, searched_records, told_records, write_told_run

from nabla_eval.cli.main import main
from nabla_eval.reporting import viewer

WIDE = {"COLUMNS": "200"}


def trace(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["trace", *map(str, arguments)], env=WIDE)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_told_run(tmp_path / "told")


def test_list_says_what_became_of_every_problem(run: Path) -> None:
    result = trace("list", run)
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.startswith("toy/")}
    assert list(rows) == list(IDS)
    assert rows[IDS[0]].split()[1:3] == ["wrong", "right"] and "0.00 → 1.00" in rows[IDS[0]]
    assert (
        "\x1b" not in result.stdout
        and "\\x1b[31mred\\x00\\u202eabc" in trace("show", run, "2").stdout
    )


def test_list_filters_orders_and_limits(run: Path) -> None:
    kept = trace("list", run, "--filter", "wrong-right").stdout
    assert IDS[0] in kept and IDS[1] not in kept and "1 of 3 problems. `" in kept
    first = trace("list", run, "--order", "candidates", "--limit", "1").stdout
    assert IDS[0] in first and "1 of 3 problems. --limit shows more" in first


def test_show_tells_the_candidates_and_marks_the_revised_token(run: Path) -> None:
    for name in (IDS[0], "toy/0", "0"):
        result = trace("show", run, name)
        assert result.exit_code == 0, result.output
        assert "a+13[2]=4" in result.stdout
        assert "1. rejected  token 2: a+12 → 1   reward 0.000 → -1.000" in result.stdout
        assert "- a+12=7" in result.stdout and "+ a+13=4" in result.stdout


def test_show_says_what_there_is_where_a_name_is_unknown_or_stands_for_several(
    run: Path, tmp_path: Path
) -> None:
    unknown = trace("show", run, "7")
    assert unknown.exit_code == 1 and IDS[0] in unknown.stderr
    repeats = write_run(tmp_path / "r", [record(0, 0), record(0, 1)], [1.0])
    several = trace("show", repeats, "0")
    assert several.exit_code == 1 and "toy/0/0, toy/0/1" in several.stderr


def test_html_writes_a_page_per_run(run: Path, tmp_path: Path) -> None:
    write_told_run(tmp_path / "other")
    result = trace("html", tmp_path, "-o", tmp_path / "pages")
    assert result.exit_code == 0, result.output
    pages = sorted(path.name for path in (tmp_path / "pages").iterdir())
    assert pages == ["index.html", "other.html", "told.html"]
    assert all(str(tmp_path / "pages" / name) in result.stdout for name in pages)


def test_html_says_what_belongs_to_the_page_of_a_large_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "PART", 1)
    result = trace("html", run, "-o", tmp_path / "pages")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(tmp_path / "pages" / "told.html")]
    assert "told-problems/ holds the problems of its page" in result.stderr
    assert (tmp_path / "pages" / "told-problems" / "part-2.js").is_file()


def test_a_run_that_is_not_finished_can_be_looked_at(run: Path) -> None:
    for path in run.rglob("*"):
        if path.name.startswith(("samples_", "results_")):
            path.unlink()
    result = trace("list", run)
    assert result.exit_code == 0 and IDS[2] in result.stdout


def test_a_folder_without_traces_is_said(tmp_path: Path) -> None:
    result = trace("list", tmp_path)
    assert result.exit_code == 1 and "No trace" in result.stderr


def test_show_draws_the_tree_of_a_search_with_the_path_to_the_answer(tmp_path: Path) -> None:
    run = write_run(tmp_path / "search", searched_records(), [1.0, 1.0])
    result = trace("show", run, "0")
    assert result.exit_code == 0, result.output
    assert "4 moves of the search, 2 of them to the answer" in result.stdout
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert any(line.split() == ["→", "b;", "0.750", "3"] for line in lines)
    assert any(line.split() == ["→", "│", "c=4", "1.500", "1", "complete"] for line in lines)
    assert any(line.split() == ["a;", "0.250", "2"] for line in lines)
    assert "cut off </script>" in result.stdout and "\x1b" not in result.stdout
    talk = trace("show", run, "1").stdout
    assert "critique: too long" in talk and "revision: b;c=4" in talk and "Visits" not in talk


def test_a_torn_or_unscored_run_is_shown_with_a_warning_and_a_damaged_one_refused(
    run: Path,
) -> None:
    (traces,) = run.glob("trace-rank0.jsonl")
    whole = traces.read_bytes()
    traces.write_bytes(whole[:-40])
    torn = trace("list", run)
    assert torn.exit_code == 0 and "2 of 2 problems" in torn.stdout, torn.output
    assert "Shown without the task's scores" in torn.stderr and "torn" in torn.stderr
    assert trace("show", run, "0").exit_code == 0
    traces.write_bytes(whole[:40] + whole[60:])
    damaged = trace("list", run)
    assert damaged.exit_code == 1 and "damaged" in damaged.stderr


def test_show_counts_the_tokens_that_were_guided(tmp_path: Path) -> None:
    result = trace("show", write_run(tmp_path / "g", guided_records(), [1.0]), "0")
    assert result.exit_code == 0, result.output
    assert "2 guided tokens, 1 of them replaced" in result.stdout and "\x1b" not in result.stdout


def test_a_shard_in_which_nothing_is_yet_is_a_page_without_problems(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "all" / "new").mkdir(parents=True)
    (tmp_path / "all" / "new" / "trace-rank0.jsonl").touch()
    run.rename(tmp_path / "all" / "told")
    result = trace("html", tmp_path / "all", "-o", tmp_path / "pages")
    assert result.exit_code == 0, result.output
    assert {page.stem for page in (tmp_path / "pages").glob("*.html")} == {"index", "new", "told"}


def test_a_page_that_was_stopped_midway_leaves_no_old_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trace("html", run, "-o", tmp_path).exit_code == 0
    (page,) = tmp_path.glob("*.html")

    def stop(*arguments: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(viewer, "_embedded", stop)
    assert trace("html", run, "-o", tmp_path).exit_code == 130
    assert not page.exists()


def test_show_tells_right_and_wrong_the_gold_answer_and_small_numbers(tmp_path: Path) -> None:
    step = {"gradient_norm": None, "certified": True, "old_reward": 4e-5, "new_reward": 4.2e-5}
    prompt = "<|im_start|>user\nWhat is 1 + 1?<|im_end|>"
    lines = [{**line, "prompt": prompt} for line in told_records()]
    lines[0]["candidates"][1] |= step
    samples = [sample(doc, 1.0) for doc in range(3)]
    samples[0] |= {"target": "a+13=4", "doc": {"question": "What is 1 + 1?"}}
    run = write_run(tmp_path / "r", lines, [], samples=samples)
    assert "What is 1 + 1?" in trace("list", run).stdout.splitlines()[1]
    shown = trace("show", run, "0").stdout
    assert "im_start" not in shown and "im_start" in trace("show", run, "0", "--full").stdout
    for words in (
        "Gold answer  a+13=4",
        "Draft        wrong, answers a+12=7, reward 0.000",
        "Answer       right, answers a+13=4, reward 1.000",
        "2 candidates, 1 accepted; 10 model calls; ended: n used up",
        "wrong, answers a+1=9",
        "reward 0.000040 → 0.000042",
        "certified: no gradient",
    ):
        assert words in shown, shown  # fmt: skip


def test_show_cuts_long_candidates_unless_all_is_asked_for(tmp_path: Path) -> None:
    lines = told_records()
    lines[0]["candidates"][0]["text"] += " and so on" * 100
    run = write_run(tmp_path / "r", lines, [1.0] * 3)
    assert "more characters)" in trace("show", run, "0").stdout
    assert "more characters)" not in trace("show", run, "0", "--full").stdout
