"""The demo end to end on a few problems, and the rows it compares."""

from __future__ import annotations

import json
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from nabla_eval import embedded
from nabla_eval.cli import demo
from nabla_eval.errors import DataError
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.methods.registry import configure
from nabla_eval.options import change
from nabla_eval.runs.evaluate import Evaluator
from nabla_eval.traces import read

LIMIT = 4
ROOT = Path(__file__).resolve().parents[2]


def test_the_rows_are_fair_rivals():
    """The twins differ from nabla by the gradient alone; all early stops ask for the same bar."""
    config = {
        folder: configure(row["method"], {n: row[n] for n in row if n not in ("name", "method")})
        for folder, row in demo.ROWS.items()
    }
    nabla = config["nabla"]
    assert nabla == Nabla(n=demo.N) and nabla.stop_reward is None  # the default as it ships
    assert config["twin"] == change(nabla, steps=0)
    for name in ("nabla", "twin", "best_of_n"):
        assert config[f"{name}_stop"] == change(config[name], stop_reward=demo.STOP_REWARD)
    assert all(config[name].n == demo.N for name in config if name != "greedy")
    assert len({row["name"] for row in demo.ROWS.values()}) == len(demo.ROWS) == 8


def test_other_settings_stand_beside_the_default_and_their_twins():
    rows = demo.rows_of("paper", 0.5)
    assert list(rows)[:8] == list(demo.ROWS) and list(rows)[8:] == [
        "nabla_paper", "twin_paper", "nabla_lr",
    ]  # fmt: skip
    cells = {cell.folder: cell for cell in demo.sweep_of_rows(rows).cells}
    config = {folder: cell.evaluation.arguments.config for folder, cell in cells.items()}
    assert config["nabla_paper"] == configure("nabla", {"n": demo.N}, "paper")
    assert config["twin_paper"] == change(config["nabla_paper"], steps=0)
    assert config["nabla_lr"] == change(config["nabla"], lr=0.5)
    assert not any("," in cell.name for cell in cells.values())


@pytest.mark.parametrize(
    "options",
    [["--preset", "papr"], ["--lr", "0"], ["--limit", "1"], ["--batch-size", "0"], ["--sed", "1"]],
)
def test_options_out_of_range_are_refused_before_anything_is_loaded(options):
    result = CliRunner().invoke(demo.demo, options)
    assert result.exit_code == 2 and options[0].lstrip("-") in result.output


def run(folder, *options: str):
    arguments = ["--limit", str(LIMIT), "--device", "cpu", "--output", str(folder), *options]
    return CliRunner().invoke(demo.demo, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, no_environment):
    """Output folder and screen of one small demo."""
    if not all(path.is_dir() for path in embedded.paths()):
        pytest.skip("the embedded weights are absent")
    folder = tmp_path_factory.mktemp("demo") / "new"
    return folder, run(folder).output


def test_the_screen_is_the_demos_own(finished):
    folder, screen = finished
    for row in demo.ROWS.values():
        assert f"] {row['name']}  {demo.TASK}  seed 0: " in screen
    for title in ("Accuracy and cost", "Rejection rate", "In words", "In sentences"):
        assert title in screen
    assert "66.0" in screen and "75.5" in screen
    assert "cannot be told apart" in screen
    (said,) = re.findall(r"nabla takes \d\.\d gradient .* because (\d+\.\d) %", screen)
    records = [record["outcome"] for record in read(folder / "nabla")]
    share = sum(r["certified"] for r in records) / sum(r["visited"] for r in records)
    assert said == f"{100 * share:.1f}" and share > 0.5
    assert "it/s" not in screen and "\x1b" not in screen
    assert (folder / "log.txt").stat().st_size > 0


def test_the_notes_of_its_page_are_those_that_it_prints(finished):
    """docs/first_run.md shows a run; its figures are of that run, what is said of them is not."""
    _, screen = finished
    page = (ROOT / "docs/first_run.md").read_text(encoding="utf-8")
    shown, printed = (" ".join(text.split()) for text in (page, screen))
    for begin, end in (
        ("Model calls, generated", "Rejection rate"),
        ("All in per cent.", "In words"),
    ):
        note = printed[printed.index(begin) :].partition(end)[0]
        assert note in shown


def test_the_numbers_are_lm_evals_own_and_the_traces_say_what_was_run(finished):
    folder, _ = finished
    summary = json.loads((folder / "summary.json").read_text())
    rows = {row["run"]: row for row in summary["accuracy"]}
    for name, row in demo.ROWS.items():
        (file,) = (folder / name).glob("results_*.json")
        metrics = json.loads(file.read_text())["results"][demo.TASK]
        records, ours = read(folder / name), rows[row["name"]]
        assert ours["problems"] == LIMIT == len(records)
        assert ours["accuracy"] == pytest.approx(metrics["exact_match,none"])
        error = metrics["exact_match_stderr,none"]  # 0 where all are right, which is not certain
        assert ours["se"] == pytest.approx(error) if error else ours["se"] > 0.01
        assert ours["model_calls"] == pytest.approx(metrics["model_calls,none"])
        (file,) = (folder / name).glob(f"samples_{demo.TASK}_*.jsonl")
        samples = file.read_text().splitlines()
        assert [json.loads(line)["doc_id"] for line in samples] == list(range(LIMIT))
        for record in records:
            assert record["method"] == row["method"]
            assert record["id"].startswith(f"{demo.TASK}/") and record["ledger"]["model_calls"] > 0
    (twin, *_) = read(folder / "twin")
    assert twin["config"]["steps"] == 0 and twin["ledger"]["gradient_passes"] == 0
    assert [row["run"] for row in summary["rejection"]] == [
        "nabla",
        "twin",
        "nabla+stop",
        "twin+stop",
    ]


def test_stopped_early_it_says_what_is_done_and_that_it_starts_over(tmp_path, monkeypatch):
    """Nothing of an earlier demo is resumed: the seconds would be wrong."""

    monkeypatch.setattr(Evaluator, "evaluate", Mock(side_effect=KeyboardInterrupt))
    earlier = tmp_path / "demo" / "twin" / "trace-rank0.jsonl"
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    said = run(tmp_path / "demo").stderr
    assert not earlier.exists()
    kept = f"0 of 8 cells are done in {tmp_path / 'demo'}"
    assert f"Stopped: {kept}; the same command starts over" in said


def test_errors_end_the_demo_in_words(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Choose another"):
        run(tmp_path / "file" / "demo")
    monkeypatch.setattr("lm_eval._cli.run.Run._execute", lambda _: 1 / 0)
    with pytest.raises(DataError, match=r"division by zero.*see the log"):
        run(tmp_path / "demo")
