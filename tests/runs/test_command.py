"""`nabla-eval run` reads its own options and lm-eval's, and fills in the rest."""

from __future__ import annotations

import pytest

from nabla_eval.errors import ConfigError
from nabla_eval.runs.command import compose


def test_own_options_win_over_model_args_and_both_reach_the_model():
    made = compose(
        ["--model_args", "n=2,lr=0.1", "top_p=0.9", "--num_fewshot", "3"],
        n=4, settings={"steps": 1}, tasks=("a", "b", "a"), seed="7", limit=8.0,
    )  # fmt: skip
    assert made.model_args == {"n": 4, "lr": 0.1, "top_p": 0.9, "steps": 1, "seed": 7}
    assert (made.tasks, made.options["num_fewshot"]) == (("a", "b"), 3)
    manifest = made.manifest("typed", "name")
    assert (manifest["seed"], manifest["limit"], manifest["config"]["n"]) == (7, 8, 4)
    assert manifest["options"] == {"num_fewshot": 3}


@pytest.mark.parametrize(
    ("rest", "recorded"),
    [
        (["--num_fewshot", "0"], {"num_fewshot": 0}),
        (["--fewshot_as_multiturn", "false"], {"fewshot_as_multiturn": False}),
        (["--fewshot_as_multiturn", "--apply_chat_template"], {"apply_chat_template": True}),
        (["--predict_only", "--write_out"], {"predict_only": True}),
    ],
)
def test_run_json_records_what_answers_depend_on(rest, recorded):
    assert compose(rest).manifest("c", "n")["options"] == recorded


def test_run_json_names_the_device_that_model_args_chose():
    for given in ({"settings": {"device": "cpu"}}, {"device": "cpu"}):
        assert compose([], **given).manifest("c", "n")["device"] == "cpu"
    assert compose(["--model_args", "device=cpu"]).options["device"] == "cpu"


def test_the_grader_is_told_to_tasks_and_noted_in_run_json():
    rest = ["--metadata", "data_dir=problems"]
    made = compose(rest, tasks=("nabla_math500",), grader="math_verify")
    told = {"data_dir": "problems", "grader": "math_verify"}
    assert made.options["metadata"] == told
    assert made.manifest("c", "n")["options"]["metadata"] == told
    with pytest.raises(ConfigError, match=r"nabla_countdown are checked by arithmetic\. Leave it"):
        compose([], grader="math_verify")
    compose([], tasks=("nabla_countdown", "nabla_amc"), grader="math_verify")


def test_the_defaults_and_lm_evals_own_words():
    made = compose([])
    assert (made.tasks, made.model_args) == (("nabla_countdown",), {"seed": 0})
    assert made.options["batch_size"] == 32
    made = compose(["-t", "a,b", "-L", "0.5", "-b", "auto", "--apply_chat_template"])
    assert made.tasks == ("a", "b") and made.options["apply_chat_template"] is True
    assert (made.options["limit"], made.options["batch_size"]) == (0.5, "auto")


@pytest.mark.parametrize(
    ("given", "task"),
    [
        ({}, "nabla_countdown"),
        ({"settings": {"pair": "countdown"}}, "nabla_countdown"),
        ({"settings": {"pair": "words"}}, "nabla_words"),
        ({"settings": {"pair": "words"}, "tasks": ("nabla_countdown",)}, "nabla_countdown"),
    ],
)
def test_without_a_task_it_is_the_pairs_own(given, task):
    assert compose([], **given).tasks == (task,)
    assert compose(["--model_args", "pair=words"]).tasks == ("nabla_words",)


def test_own_options_win_over_a_device_and_a_batch_size_in_model_args():
    made = compose(["--model_args", "device=meta,batch_size=4"], device="cpu", batch_size="8")
    assert (made.options["device"], made.options["batch_size"]) == ("cpu", "8")


def test_four_seeds_are_lm_evals_and_the_third_is_the_draws():
    made = compose([], seed="1,2,3,4")
    assert made.options["seed"] == [1, 2, 3, 4] and "seed" not in made.model_args
    assert made.manifest("c", "n")["seed"] == 3


def test_a_config_file_of_lm_eval_is_below_everything(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("tasks: [x, y]\nlimit: 3\nmodel_args: {n: 2, lr: 0.5}\nbatch_size: 4\n")
    made = compose(["--config", str(file), "--model_args", "n=3"], settings={"lr": 0.25})
    assert (made.tasks, made.options["limit"]) == (("x", "y"), 3)
    assert (made.model_args["n"], made.model_args["lr"]) == (3, 0.25)
    assert made.options["batch_size"] == 4


@pytest.mark.parametrize(
    ("text", "words", "seed", "options"),
    [
        ("seed: [1, 2, 3, 4]", [], 3, {}),
        ("seed: 5", [], 5, {}),
        ("seed: 5", ["--seed", "1,2,3,4"], 3, {}),
        ("seed: 5\nmodel_args: {seed: 6}", [], 6, {}),
        ("num_fewshot: 3\ngen_kwargs: {top_p: 0.5}", [], 0,
         {"num_fewshot": 3, "gen_kwargs": {"top_p": 0.5}}),
        ("metadata: 'grader=math_verify'\ntasks: nabla_amc", ["--num_fewshot", "1"], 0,
         {"num_fewshot": 1, "metadata": {"grader": "math_verify"}}),
        ("apply_chat_template: true\nnum_fewshot: 3", ["--num_fewshot", "0"], 0,
         {"num_fewshot": 0, "apply_chat_template": True}),
    ],
)  # fmt: skip
def test_run_json_records_what_a_config_file_says(tmp_path, text, words, seed, options):
    (tmp_path / "c.yaml").write_text(text)
    manifest = compose([*words, "--config", str(tmp_path / "c.yaml")]).manifest("c", "n")
    assert (manifest["seed"], manifest["options"]) == (seed, options)


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (["--model", "hf"], "lm_eval --model hf"),
        (["--output_path", "x"], "--output"),
        (["--model_args", "trace_dir=x"], "trace_dir=x"),
        (["--model_args", "stepz=3"], "steps"),
        (["--config", "/nowhere.yaml"], "cannot be read"),
        (["-L", "-3"], r"^limit must be a number > 0 or none, got -3\.0"),
        (["--limit", "nan"], "^limit must be .*, got nan"),
        (["--num_fewshot", "-1"], "^num_fewshot must be an integer >= 0 or none, got -1"),
        (["--max_batch_size", "0"], "^max_batch_size must be an integer >= 1 or none, got 0"),
        (["--model_args", '{"n": 3'], r'^lm-eval cannot read its options: Invalid JSON: {"n": 3\.'),
        (["--gen_kwargs", "{'a': 1}"], "Hint: Use double quotes"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(rest, words):
    with pytest.raises(ConfigError, match=words):
        compose(rest)


@pytest.mark.parametrize("seed", ["x", "", "1.5", "1,x,2,3", "1,2", "1,2,3,4,5", "0x1"])
def test_a_seed_is_an_integer_or_four(seed):
    with pytest.raises(ConfigError, match=rf"integer, or lm-eval's four: .* got '{seed}'\. Try"):
        compose([], seed=seed)
    assert compose([], seed="1, None,3,4").options["seed"] == [1, None, 3, 4]


def test_a_limit_that_is_no_number_is_refused():
    for limit in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="limit must be a number > 0"):
            compose([], limit=limit)


@pytest.mark.parametrize("rest", [["--samples", "{a"], ["-E", "{a"], ["--seed", "x"]])
def test_lm_evals_parser_names_no_function_of_its_own(capsys, rest):
    with pytest.raises(SystemExit):
        compose(rest)
    assert f"{rest[0]}" in (said := capsys.readouterr().err.splitlines()[-1])
    assert said.endswith(f": invalid value: {rest[1]!r}")


def test_a_config_file_that_is_no_mapping_is_refused_once(tmp_path):
    (tmp_path / "c.yaml").write_text("[1]")
    with pytest.raises(ConfigError, match=r"^--config \S+: it must be a mapping, got a list"):
        compose(["--config", str(tmp_path / "c.yaml")])


def test_lm_evals_parser_refuses_what_it_does_not_know(capsys):
    with pytest.raises(SystemExit) as left:
        compose(["--num_fewshots", "3", "--nothing"])
    assert left.value.code == 2 and "--nothing" in capsys.readouterr().err
