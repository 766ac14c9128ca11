"""`nabla-eval run` from nothing to a run folder, and again, and after it was stopped."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result
from nearly import same
from tiny_task import SIZE, TASK

from nabla_eval.cli import dry_run
from nabla_eval.cli.main import main
from nabla_eval.errors import RewardError
from nabla_eval.runs.evaluate import Evaluator
from nabla_eval.traces import read
from nabla_eval.traces.manifest import read_manifest, write_manifest

pytestmark = pytest.mark.usefixtures("no_environment")
OPTIONS = ("--n", "3", "--set", "steps=2", "--task", TASK, "--device", "cpu", "--seed", "5")


def run(folder: Path, tasks: Path, *more: str) -> Result:
    arguments = ["run", *OPTIONS, "--output", str(folder), *more, "--include_path", str(tasks)]
    return CliRunner().invoke(main, arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("run") / "tiny"
    result = run(folder, tiny_folder)
    assert result.exit_code == 0, result.output
    return folder, result


def answers(folder: Path) -> dict[str, Any]:
    return {record["id"]: record["outcome"] for record in read(folder)}


def test_the_folder_holds_all_there_is_to_know(finished: tuple[Path, Result]) -> None:
    folder, _ = finished
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest["status"], manifest["method"], manifest["seed"]) == ("done", "nabla", 5)
    assert manifest["command"].startswith("nabla-eval run --n 3 --set steps=2 --task tiny")
    assert (manifest["config"]["steps"], manifest["name"]) == (2, "tiny")
    assert manifest["seconds"] is not None and manifest["wall_seconds"] is not None
    assert 0 < manifest["seconds"] < manifest["wall_seconds"]
    assert manifest["peak_memory"] is not None and manifest["peak_memory"]["of"] == "process"
    assert 2**26 < manifest["peak_memory"]["bytes"] < 2**37
    records = read(folder)
    assert len(records) == SIZE
    assert {record["config_hash"] for record in records} == {manifest["config_hash"]}
    assert records[0]["models"] == manifest["models"]
    (samples,) = folder.glob(f"samples_{TASK}_*.jsonl")
    assert len(samples.read_text().splitlines()) == SIZE
    assert results_of(folder)["sample_len"] == SIZE


def results_of(folder: Path) -> dict[str, Any]:
    """What lm-eval reports of the task."""
    (results,) = folder.glob("results_*.json")
    found: dict[str, Any] = json.loads(results.read_text())["results"][TASK]
    return found


def test_the_closing_summary_is_lm_evals_accuracy_and_the_traces_cost(
    finished: tuple[Path, Result],
) -> None:
    folder, result = finished
    metrics = results_of(folder)
    (line,) = [line for line in result.output.splitlines() if line.split()[:1] == ["tiny"]]
    assert f"{100 * metrics['exact_match,none']:.1f} ± " in line
    error = metrics["exact_match_stderr,none"]
    assert f"± {100 * error:.1f} %" in line if error else "± 0.0 %" not in line
    assert f"{metrics['model_calls,none']:.1f}" in line
    verdicts = [c["verdict"] for record in read(folder) for c in record["candidates"]]
    assert f"{100 * (1 - verdicts.count('accepted') / len(verdicts)):.1f} %" in line
    assert str(folder) in result.output
    assert "GiB (resident set of the process)" in result.output


def plan_of(output: str) -> list[str]:
    """The cells of the task's row in the first table of a dry run."""
    row = next(line for line in output.splitlines() if TASK in line.split())
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_a_dry_run_says_what_it_would_take_and_leaves_nothing(
    finished: tuple[Path, Result], tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    result = run(folder, tiny_folder, "--dry-run", "--limit", "2")
    assert result.exit_code == 0, result.output
    assert not folder.exists()
    first = read(finished[0])[0]["ledger"]["model_calls"]
    measured = result.stdout.partition("What the run would take")[2]
    assert plan_of(measured)[1:3] == ["2", f"{first:,.0f}"]
    assert f"{folder} would be made." in result.output and "GiB are free." in result.output
    assert "Memory: about 0.0" in result.output and "float32 weights" in result.output
    again = run(finished[0], tiny_folder, "--dry-run")
    assert "is done already" in again.output
    other = run(finished[0], tiny_folder, "--dry-run", "--limit", "1")
    assert other.exit_code == 1 and "holds another run" in other.stderr


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ("harness.answer.drive", KeyboardInterrupt, "0 of 1 documents were tried. "),
        ("harness.answer.drive", SystemExit, ""),
        ("engine.execute.score", RewardError, "A dry run keeps no answers."),
    ],
)
def test_a_dry_run_says_what_loading_tells_before_it_answers(
    where: str, error: type[BaseException], said: str,
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(f"nabla_eval.{where}", Mock(side_effect=error("now")))
    result = run(tmp_path / "run", tiny_folder, "--dry-run", "--limit", "4")
    assert result.exit_code == (130 if error is KeyboardInterrupt else 1)
    assert plan_of(result.stdout)[::2] == [TASK, "24"]
    for words in ("Device: cpu", "Policy: ", "Memory: about 0.0", "GiB are free", "Trying"):
        assert words in result.stdout
    assert "What the run would take" not in result.stdout and said in result.stderr
    # Nothing is claimed to be kept: neither in the run's folder nor in the one that is gone.
    assert not (tmp_path / "run").exists()
    for claim in ("same command", "answers are in", "others are in", "dry-run-", "Nothing was"):
        assert claim not in result.output


def test_a_dry_run_writes_little_and_scales_what_it_cut(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "TOKENS", 4)
    chosen = tmp_path / "chosen.json"  # documents, which lm-eval refuses beside --limit
    chosen.write_text('{"tiny_countdown": [1, 2, 5]}')
    options = [
        "run", "--method", "best_of_n", "--n", "3", "--task", TASK, "--device", "cpu", "--dry-run",
        "--samples", str(chosen), "--gen_kwargs", "max_new_tokens=400",
        "--output", str(tmp_path / "run"), "--include_path", str(tiny_folder),
    ]  # fmt: skip
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 0, result.output
    assert plan_of(result.stdout)[::2] == [TASK, "400"]
    measured = plan_of(result.stdout.partition("What the run would take")[2])
    assert measured[1:4] == ["3", "1,500", "1,200"]  # 3 drafts of 4 tokens and 3 scores, x 100
    assert f"Responses of {TASK} were cut after 4 tokens" in result.stdout
    monkeypatch.setattr(dry_run, "SECONDS", 1e-9)
    assert f"{TASK} took more than 0 s an item" in CliRunner().invoke(main, options).stdout


def test_a_dry_run_refuses_what_cannot_fit(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "device_memory", lambda _: 2**20)
    longer = ("--gen_kwargs", "max_gen_toks=25")
    result = run(tmp_path / "run", tiny_folder, "--dry-run", "--limit", "1", *longer)
    assert result.exit_code == 1 and not (tmp_path / "run").exists()
    message = " ".join(result.stderr.partition("Error: ")[2].split())
    assert re.search(r"needs about \S+ GiB \([\d,]+ tokens .* Use a smaller dtype", message)


def test_the_same_command_again_runs_nothing_and_another_is_refused(
    finished: tuple[Path, Result], tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, first = finished
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_: pytest.fail("it ran"))
    again = run(folder, tiny_folder, "--batch-size", "2")
    assert again.exit_code == 0 and "Already done" in again.stderr
    assert again.stdout.strip() and again.stdout.strip() in first.stdout
    other = run(folder, tiny_folder, "--n", "2")
    assert other.exit_code == 1
    assert "holds another run (n: 3 there, 2 here)" in other.stderr


def test_what_failed_before_an_answer_leaves_the_folder_free(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder, nowhere = tmp_path / "run", ("pretrained=/nowhere", "reward=/nowhere")
    for wrong, said in (
        (("--task", "nabla_tinny"), "no task 'nabla_tinny'"),
        (("--set", nowhere[0], "--set", nowhere[1]), "/nowhere"),
        (("--set", "max_length=4"), "context"),
    ):
        failed = run(folder, tiny_folder, *wrong)
        assert failed.exit_code == 1 and said in failed.stderr
    result = run(folder, tiny_folder, "--set", "lam=2")
    assert result.exit_code == 0 and "Running into" in result.stderr, result.output
    assert len(answers(folder)) == SIZE
    refused = run(folder, tiny_folder)
    assert refused.exit_code == 1 and "lam: 2.0 there, 1.0 here" in refused.stderr


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ({"tiny_countdow": [0]}, f"no task 'tiny_countdow' is evaluated. Did you mean {TASK}?"),
        ({TASK: [0, SIZE]}, f"{TASK} has no document {SIZE}. Try 0 to {SIZE - 1}."),
        ({TASK: [-1]}, f"{TASK} has no document -1. Try"),
    ],
)
def test_documents_that_there_are_not_are_refused(
    tiny_folder: Path, tmp_path: Path, samples: Any, said: str
) -> None:
    result = run(tmp_path / "run", tiny_folder, "--samples", json.dumps(samples))
    assert result.exit_code == 1 and f"Error: --samples: {said}" in result.stderr
    assert run(tmp_path / "run", tiny_folder, "--samples", f'{{"{TASK}": [1]}}').exit_code == 0


def test_a_stopped_run_is_continued_to_the_same_answers(
    finished: tuple[Path, Result], tiny_folder: Path, tmp_path: Path
) -> None:
    folder, _ = finished
    manifest = read_manifest(folder)
    assert manifest is not None
    stopped = tmp_path / "tiny"
    write_manifest(stopped, {**manifest, "status": "running", "seconds": None})
    lines = (folder / "trace-rank0.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "trace-rank0.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:40])
    with pytest.warns(UserWarning, match="torn"):
        result = run(stopped, tiny_folder)
    assert result.exit_code == 0, result.output
    assert "Continuing" in result.stderr
    assert same(answers(stopped), answers(folder), within=8e-5)  # float32, in other batches
    again = read_manifest(stopped)
    assert again is not None and (again["status"], again["continued"]) == ("done", 1)


@pytest.mark.parametrize("gone", ["results_*.json", "samples_*.jsonl"])
def test_a_finished_run_that_lost_a_file_makes_it_again_from_its_answers(
    finished: tuple[Path, Result], tiny_folder: Path, tmp_path: Path, gone: str
) -> None:
    folder = Path(shutil.copytree(finished[0], tmp_path / "tiny"))
    for path in folder.glob(gone):
        path.unlink()
    result = run(folder, tiny_folder)
    assert result.exit_code == 0, result.output
    assert "some of its files are gone" in result.stderr and "Already done" not in result.stderr
    assert (folder / "trace-rank0.jsonl").read_bytes() == (
        finished[0] / "trace-rank0.jsonl"
    ).read_bytes()
    assert "Already done" in run(folder, tiny_folder).stderr


def test_ctrl_c_says_how_to_go_on(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluator, "evaluate", Mock(side_effect=KeyboardInterrupt))
    result = run(tmp_path / "new", tiny_folder)
    assert result.exit_code == 130 and "same command continues" in result.stderr
    manifest = read_manifest(tmp_path / "new")
    assert manifest is not None and manifest["status"] == "running"
    dry = run(tmp_path / "dry", tiny_folder, "--dry-run")
    assert dry.exit_code == 130 and "A dry run keeps no answers." in dry.stderr
    assert "same command" not in dry.output


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Any]]:
    """Folder and evaluation of each run that would begin."""
    given: list[tuple[Path, Any]] = []
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_: given.append((_[1], _[2])) or 1 / 0)
    return given


def test_options_of_lm_eval_may_stand_anywhere(tmp_path: Path, asked: list[Any]) -> None:
    arguments = ["run", "--num_fewshot", "2", "--n", "2", "--model_args", "lr=0.5", "top_p=0.9"]
    CliRunner().invoke(main, [*arguments, "--limit", "4", "--output", str(tmp_path / "a")])
    ((_, command),) = asked
    assert (command.options["num_fewshot"], command.options["limit"]) == (2, 4)
    assert command.model_args == {"lr": 0.5, "top_p": 0.9, "n": 2, "seed": 0}


def test_the_default_folder_says_what_was_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    for n in ("2", "3"):
        CliRunner().invoke(main, ["run", "--n", n])
        CliRunner().invoke(main, ["run", "--n", n, "--device", "cpu"])
    folders = [folder for folder, _ in asked]
    assert len(folders) == 4 and len(set(folders)) == 2
    assert all(str(f).startswith("results/nabla-nabla_countdown-") for f in folders)


@pytest.mark.parametrize("option", ["--n 8", "--seed 8", "--batch-size 8", "--device cpu"])
def test_a_value_given_twice_is_refused(tmp_path: Path, asked: list[Any], option: str) -> None:
    name, value = option[2:].replace("-", "_").split()
    words = ["run", *option.split(), "--output", str(tmp_path)]
    for other, twice in ((f"{name}=4", option), (f"{name}=4", f"--set {name}={value}")):
        result = CliRunner().invoke(main, [*words[:1], *twice.split(), "--set", other])
        assert result.exit_code == 1 and f"Error: {twice} and --set {other}" in result.stderr
    CliRunner().invoke(main, [*words, "--set", f"{name}={value}"])
    assert len(asked) == 1  # the same value twice is no contradiction


@pytest.mark.parametrize("setting", ["steps", "=3"])
def test_a_setting_without_a_value_is_refused(setting: str) -> None:
    result = CliRunner().invoke(main, ["run", "--set", setting])
    assert result.exit_code == 1 and "Try --set lr=0.1" in result.stderr
