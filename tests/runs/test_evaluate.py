"""One evaluation into a run folder, and several of them on models and tasks that are kept."""

from __future__ import annotations

import json
from shutil import which
from subprocess import run

import pytest
from lm_eval.api.instance import Instance

from nabla_eval.errors import ConfigError, DataError
from nabla_eval.harness.lm import NablaLM
from nabla_eval.harness.task_files import tasks_path
from nabla_eval.runs.command import compose
from nabla_eval.runs.evaluate import Evaluator, _commit, knows
from nabla_eval.traces.manifest import read_manifest

STEPS = {"step": "semicolon"}


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator()


@pytest.mark.parametrize(
    ("options", "rewarded"),
    [
        ({"method": "beam", "evaluator": "likelihood", **STEPS}, False),
        ({"method": "beam", "evaluator": "self_certainty", **STEPS}, False),
        ({"method": "beam", "evaluator": "auto", **STEPS}, True),
        ({"method": "best_of_n", "evaluator": "majority"}, False),
        ({"method": "best_of_n", "evaluator": "self_certainty"}, False),
        ({"method": "best_of_n"}, True),
        ({"method": "weighted_best_of_n", "evaluator": "self_certainty"}, False),
        ({"method": "rap", "evaluator": "likelihood", **STEPS}, False),
        ({"method": "rap", "evaluator": "weighted", "reward_weight": 0, **STEPS}, False),
        ({"method": "greedy"}, False),
        ({"method": "self_consistency"}, False),
        ({"method": "nabla", "n": 2, "steps": 0}, True),
    ],
)
def test_a_sweep_that_keeps_its_models_asks_them_what_a_run_asks(
    evaluator, tmp_path, options, rewarded
):
    options = {"seed": 0, "device": "cpu", "batch_size": 32, "trace_dir": str(tmp_path), **options}
    kept, alone = evaluator._model(options, {}), Evaluator(keep=False)._model(options, {})
    assert kept.models == alone.models
    assert ("reward" in alone.models) == rewarded == (kept.pair.reward is not None)
    arguments = ("5,3,2,1=11?", {"max_gen_toks": 24})
    request = Instance("generate_until", {}, arguments, 0, metadata=("task", 0, 1))
    first = kept.generate_until([request], disable_tqdm=True)
    assert alone.generate_until([request], disable_tqdm=True) == first  # of the same trace
    (trace,) = tmp_path.glob("trace-*")
    assert len(trace.read_text(encoding="utf-8").splitlines()) == 1


@pytest.mark.skipif(which("git") is None, reason="git is absent")
def test_git_says_nothing_of_a_folder_that_is_no_clone(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert _commit(lambda: pytest.fail("asked")) is None
    run(["git", "init", "-q"], check=True)
    assert _commit(lambda: "abc") == "abc" and capfd.readouterr().err == ""
    monkeypatch.setenv("PATH", "")  # where lm-eval looks for the commit itself
    assert _commit(lambda: "abc") == "abc"


@pytest.mark.parametrize("size", ["0", "x", "2.5", "auto:x"])
def test_a_batch_size_that_is_none_is_refused_before_anything_is_loaded(size):
    for given in ({"batch_size": size}, {"settings": {"batch_size": size}}):
        with pytest.raises(ConfigError, match="batch_size"):
            compose([], **given)
    with pytest.raises(ConfigError, match="batch_size"):
        compose(["--batch_size", size])


def test_only_given_folders_are_indexed_where_they_have_all_names(tmp_path, monkeypatch):
    (tmp_path / "group.yaml").write_text("group: mixed\ntask: [nabla_countdown, hellaswag]\n")
    (tmp_path / "own.yaml").write_text("group: ours\ntask: [nabla_countdown]\n")
    evaluator, folders = Evaluator(), [str(tasks_path()), str(tmp_path)]
    manager = evaluator._manager(["nabla_countdown", "ours"], folders, {})
    assert knows(manager, "ours") and not knows(manager, "mixed") and not knows(manager, "mmlu")
    assert all(
        name.startswith(("nabla", "aime", "amc", "math", "ours", "mixed"))
        for name in manager.all_tasks
    )
    task = manager.load(["nabla_countdown"])["tasks"]["nabla_countdown"]
    again = evaluator._manager(["nabla_countdown"], folders, {})
    assert again is manager and again.load(["nabla_countdown"])["tasks"]["nabla_countdown"] is task
    other = evaluator._manager(["nabla_countdown"], folders, {"grader": "math_verify"})
    assert other is not manager


def test_missing_data_are_missed_before_models_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluator, "_model", None)
    data = json.dumps({"data_dir": str(tmp_path / "no")})
    made = compose(["--metadata", data], tasks=("nabla_gsm8k",))
    with pytest.raises(DataError, match="gsm8k"):
        Evaluator().evaluate(tmp_path, made, made.manifest("c", "n"))


def test_an_unknown_task_is_answered_with_ours(tmp_path, monkeypatch):
    made = compose([], tasks=("nabla_countdwn",))

    def not_found(_):  # lm-eval searches for 15 s
        raise ValueError("Tasks not found: nabla_countdwn")

    monkeypatch.setattr("lm_eval._cli.run.Run._execute", not_found)
    with pytest.raises(DataError, match=r"no task 'nabla_countdwn'\. Did you mean nabla_c"):
        Evaluator().evaluate(tmp_path, made, made.manifest("c", "n"))
    manifest = read_manifest(tmp_path)
    assert manifest is not None and "Did you mean" in str(manifest["error"])


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("WORLD_SIZE", "-1"), ("RANK", "")])
def test_a_rank_that_is_no_number_is_said(name, value, tmp_path, monkeypatch):
    monkeypatch.setenv(name, value)
    said = f"{name} in the environment must be an integer >= 0, got '{value}'. Unset it"
    with pytest.raises(ConfigError, match=said):
        NablaLM(method="greedy", device="cpu")
    if name == "RANK":
        made = compose([], method="greedy")
        with pytest.raises(ConfigError, match=said):
            Evaluator().evaluate(tmp_path, made, made.manifest("c", "n"))
