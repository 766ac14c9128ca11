"""The demo end to end on a few problems, and the rows it compares."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
from click.testing import CliRunner

from nabla_eval import embedded
from nabla_eval.cli import demo
from nabla_eval.errors import DataError
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.methods.registry import configure
from nabla_eval.options import change
from nabla_eval.runs.evaluate import Evaluator
from nabla_eval.runs.quiet import quiet
from nabla_eval.traces import read

LIMIT = 4
# Two seconds of subprocesses per evaluation, and nothing of ours.
ENVIRONMENT = "torch.utils.collect_env.get_pretty_env_info"


def config(row: demo.DemoRow):
    options = {name: value for name, value in row.options.items() if name != "method"}
    return configure(row.options["method"], options)


def test_the_rows_are_fair_rivals():
    """The twins differ from nabla by the gradient alone; all early stops ask for the same bar."""
    nabla = config(demo.NABLA)
    assert nabla == Nabla(n=demo.N)  # the default as it ships
    assert nabla.stop_reward is None
    assert config(demo.TWIN) == change(nabla, steps=0)
    assert config(demo.NABLA_STOP) == change(nabla, stop_reward=demo.STOP_REWARD)
    assert config(demo.TWIN_STOP) == change(nabla, steps=0, stop_reward=demo.STOP_REWARD)
    assert config(demo.BEST_STOP) == change(config(demo.BEST), stop_reward=demo.STOP_REWARD)
    for row in (demo.MAJORITY, demo.BEST, demo.BEST_STOP):
        assert config(row).n == demo.N
    assert len({row.name for row in demo.ROWS}) == len({row.folder for row in demo.ROWS}) == 8


@pytest.mark.parametrize("options", [["--limit", "1"], ["--batch-size", "0"], ["--sed", "1"]])
def test_options_out_of_range_are_refused_before_anything_is_loaded(options):
    result = CliRunner().invoke(demo.demo, options)
    assert result.exit_code == 2 and options[0].lstrip("-") in result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Output folder and screen of one small demo."""
    if not all(path.is_dir() for path in embedded.paths()):
        pytest.skip("the embedded weights are absent")
    folder = tmp_path_factory.mktemp("demo") / "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ENVIRONMENT, lambda: "")
        result = run(folder)
    return folder, result.output


def run(folder, *options: str):
    arguments = ["--limit", str(LIMIT), "--device", "cpu", "--output", str(folder), *options]
    return CliRunner().invoke(demo.demo, arguments, catch_exceptions=False)


def test_the_screen_is_the_demos_own(finished):
    folder, screen = finished
    for row in demo.ROWS:
        assert f"] {row.name}  {demo.TASK}  seed 0: " in screen
    for title in ("Accuracy and cost", "Rejection rate", "nabla against the others"):
        assert title in screen
    assert "66.03 %" in screen and "75.46 %" in screen
    assert "What happened" in screen and "cannot be told apart" in screen
    assert "it/s" not in screen and "\x1b" not in screen
    assert (folder / "log.txt").stat().st_size > 0


def test_the_numbers_are_lm_evals_own(finished):
    folder, _ = finished
    rows = {
        row["run"]: row for row in json.loads((folder / "summary.json").read_text())["accuracy"]
    }
    for row in demo.ROWS:
        (file,) = (folder / row.folder).glob("results_*.json")
        results = json.loads(file.read_text())
        metrics = results["results"][demo.TASK]
        ours = rows[row.name]
        assert ours["problems"] == LIMIT == len(read(folder / row.folder))
        assert ours["accuracy"] == pytest.approx(metrics["exact_match,none"])
        error = metrics["exact_match_stderr,none"]  # 0 where all are right, which is not certain
        assert ours["se"] == pytest.approx(error) if error else ours["se"] > 0.01
        assert ours["model_calls"] == pytest.approx(metrics["model_calls,none"])
        (file,) = (folder / row.folder).glob(f"samples_{demo.TASK}_*.jsonl")
        samples = file.read_text().splitlines()
        assert [json.loads(line)["doc_id"] for line in samples] == list(range(LIMIT))


def test_the_traces_say_what_was_run(finished):
    folder, _ = finished
    for row in demo.ROWS:
        for record in read(folder / row.folder):
            assert record["method"] == row.options["method"]
            assert record["id"].startswith(f"{demo.TASK}/") and record["ledger"]["model_calls"] > 0
    (twin, *_) = read(folder / demo.TWIN.folder)
    assert twin["config"]["steps"] == 0 and twin["ledger"]["gradient_passes"] == 0
    facts = json.loads((folder / "summary.json").read_text())["facts"]
    assert facts["options"]["nabla"]["steps"] > 0 and facts["seed"] == 0


def test_stopped_early_it_says_what_is_done_and_that_it_starts_over(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Evaluator, "evaluate", interrupted)
    result = run(tmp_path / "demo")
    assert (
        f"Stopped: 0 of 8 cells are done in {tmp_path / 'demo'}; the same command starts over"
        in (result.stderr)
    )


def test_a_method_that_fails_ends_the_demo_with_its_error(tmp_path, monkeypatch):
    monkeypatch.setattr("lm_eval._cli.run.Run._execute", lambda _: 1 / 0)
    with pytest.raises(DataError, match=r"division by zero.*see the log"):
        run(tmp_path / "demo")


@pytest.mark.slow
def test_a_second_demo_replaces_the_first_and_repeats_it(finished, monkeypatch):
    """Other batches, the same answers; and nothing is resumed, which would make times wrong."""
    folder, _ = finished
    monkeypatch.setattr(ENVIRONMENT, lambda: "")
    before = {row.folder: answers(folder / row.folder) for row in demo.ROWS}
    run(folder, "--batch-size", "3")
    assert {row.folder: answers(folder / row.folder) for row in demo.ROWS} == before


def answers(folder):
    return {record["id"]: record["outcome"]["text"] for record in read(folder)}


def test_an_output_that_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Choose another"):
        run(tmp_path / "file" / "demo")


def test_quiet_catches_prints_and_logs_and_gives_the_handlers_back(tmp_path, capsys):
    logger = logging.getLogger("tests.quiet")
    logger.propagate = False
    early = logging.StreamHandler(sys.stderr)
    logger.addHandler(early)
    stderr = sys.stderr
    try:
        with quiet(tmp_path / "log.txt"):
            late = logging.StreamHandler()
            logger.addHandler(late)
            print("printed")
            print("to stderr", file=sys.stderr)
            logger.warning("logged")
        assert early.stream is late.stream is stderr is sys.stderr
        assert (tmp_path / "log.txt").read_text() == "printed\nto stderr\nlogged\nlogged\n"
        captured = capsys.readouterr()
        assert captured.out == captured.err == ""
    finally:
        logger.handlers.clear()


def test_quiet_catches_what_programs_say_on_stderr(tmp_path, capfd):
    script = "import sys; print('fatal: no repository', file=sys.stderr)"
    with quiet(tmp_path / "log.txt"):
        print("a library")
        subprocess.run([sys.executable, "-c", script], check=True)
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('later')"], check=True)
    written = (tmp_path / "log.txt").read_text()
    assert "a library" in written and "fatal: no repository" in written and "later" not in written
    assert capfd.readouterr() == ("", "later")
