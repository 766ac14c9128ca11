"""`nabla-eval run` reads its own options and lm-eval's, and fills in the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nabla_eval.errors import ConfigError, DataError
from nabla_eval.harness import command as module
from nabla_eval.harness.command import compose
from nabla_eval.harness.lmeval import knows, own_manager
from nabla_eval.harness.tasks import tasks_path


def test_own_options_win_over_model_args_and_both_reach_the_model() -> None:
    made = compose(
        ["--model_args", "n=2,lr=0.1", "top_p=0.9", "--num_fewshot", "3"],
        n=4, settings={"steps": 1}, tasks=("a", "b", "a"), seed="7", limit=8.0,
    )  # fmt: skip
    assert made.model_args == {"n": 4, "lr": 0.1, "top_p": 0.9, "steps": 1, "seed": 7}
    assert (made.tasks, made.namespace.num_fewshot) == (("a", "b"), 3)
    manifest = made.manifest("typed", "name")
    assert (manifest["seed"], manifest["limit"], manifest["config"]["n"]) == (7, 8, 4)
    assert manifest["options"] == {"num_fewshot": 3}


def test_the_grader_is_told_to_tasks_and_noted_in_run_json() -> None:
    rest = ["--metadata", "data_dir=problems"]
    made = compose(rest, tasks=("nabla_math500",), grader="math_verify")
    told = {"data_dir": "problems", "grader": "math_verify"}
    assert made.namespace.metadata == told
    assert made.manifest("c", "n")["options"]["metadata"] == told
    with pytest.raises(ConfigError, match=r"nabla_countdown are checked by arithmetic\. Leave it"):
        compose([], grader="math_verify")
    compose([], tasks=("nabla_countdown", "nabla_amc"), grader="math_verify")


def test_the_defaults() -> None:
    made = compose([])
    assert made.tasks == ("nabla_countdown",)
    assert dict(made.model_args) == {"seed": 0}
    assert made.namespace.batch_size == 32


def test_lm_evals_own_words_are_untouched() -> None:
    made = compose(["-t", "a,b", "-L", "0.5", "-b", "auto", "--apply_chat_template"])
    assert made.tasks == ("a", "b")
    assert (made.namespace.limit, made.namespace.batch_size) == (0.5, "auto")
    assert made.namespace.apply_chat_template is True


def test_four_seeds_are_lm_evals_and_the_third_is_the_draws() -> None:
    made = compose([], seed="1,2,3,4")
    assert made.namespace.seed == [1, 2, 3, 4] and "seed" not in made.model_args
    assert made.manifest("c", "n")["seed"] == 3


def test_a_config_file_of_lm_eval_is_below_everything(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("tasks: [x, y]\nlimit: 3\nmodel_args: {n: 2, lr: 0.5}\nbatch_size: 4\n")
    made = compose(["--config", str(file), "--model_args", "n=3"], settings={"lr": 0.25})
    assert (made.tasks, made.namespace.limit) == (("x", "y"), 3)
    assert (made.model_args["n"], made.model_args["lr"]) == (3, 0.25)
    assert made.namespace.batch_size == 4


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (["--model", "hf"], "lm_eval --model hf"),
        (["--output_path", "x"], "--output"),
        (["--model_args", "trace_dir=x"], "trace_dir=x"),
        (["--model_args", "stepz=3"], "steps"),
        (["--config", "/nowhere.yaml"], "cannot be read"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(rest: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose(rest)


def test_lm_evals_parser_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        compose(["--num_fewshots", "3", "--nothing"])
    assert left.value.code == 2 and "--nothing" in capsys.readouterr().err


def test_an_unknown_task_is_answered_with_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = compose([], tasks=("nabla_countdwn",))

    def not_found(_: Any) -> None:
        raise ValueError("Tasks not found: nabla_countdwn")

    monkeypatch.setattr(made.namespace, "func", not_found)
    monkeypatch.setattr("lm_eval.utils.setup_logging", lambda: None)
    with pytest.raises(DataError, match=r"no task 'nabla_countdwn'\. Did you mean nabla_c"):
        made.execute(tmp_path, made.manifest("c", "n"))


def test_only_our_folder_is_indexed_where_it_has_all_names(root: Path, tmp_path: Path) -> None:
    manager = own_manager([tasks_path()])
    assert manager.all_tasks and all(name.startswith(("nabla", "aime", "amc", "math"))
                                     for name in manager.all_tasks)  # fmt: skip
    assert knows(manager, "nabla_countdown") and not knows(manager, "hellaswag")
    (tmp_path / "group.yaml").write_text("group: mixed\ntask: [nabla_countdown, hellaswag]\n")
    (tmp_path / "own.yaml").write_text("group: ours\ntask: [nabla_countdown]\n")
    both = own_manager([tasks_path(), tmp_path])
    assert knows(both, "ours") and not knows(both, "mixed")
    assert module.TASK == "nabla_countdown" and root.joinpath("tasks").samefile(tasks_path())
