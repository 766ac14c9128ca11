"""--model_args: sorted by owner, and refused before anything is loaded."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from nabla_eval.errors import ConfigError
from nabla_eval.harness import arguments
from nabla_eval.harness.arguments import COMMON_NAMES, HFLM_NAMES, PASSED_ON, read
from nabla_eval.harness.preflight import check_command_line, model_args
from nabla_eval.methods.registry import METHODS, option_names


def test_nothing_given_is_nabla_on_the_embedded_pair():
    found = read({})
    assert (found.method, found.preset, found.seed) == ("nabla", None, None)
    assert (found.pretrained, found.reward, found.given) == (None, None, frozenset())


def test_every_argument_goes_to_its_owner():
    found = read(
        {
            "method": "nabla",
            "preset": "paper",
            "n": "4",
            "lam": -1.0,
            "seed": 7,
            "pretrained": "a/policy",
            "reward": "a/reward",
            "reward_dtype": "float64",
            "dtype": "float64",
            "device_map": "auto",
            "trace_dir": "somewhere",
            "temperature": None,
        }
    )
    assert (found.config.n, found.config.lam, found.seed) == (4, -1.0, 7)
    assert found.config.temperature == 0.5  # the preset's: None means not given
    assert found.given == {"n", "lam"}
    assert dict(found.hf) == {"dtype": "float64", "device_map": "auto"}
    assert dict(found.reward_options) == {"reward_dtype": "float64"}
    assert str(found.trace_dir) == "somewhere"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stepz": 3}, ["stepz", "steps"]),
        ({"method": "nabla", "pretraned": "x"}, ["pretraned", "pretrained"]),
        ({"method": "nable"}, ["nable", "nabla"]),
        ({"preset": "papers"}, ["papers", "paper"]),
        ({"method": "greedy", "n": 8}, ["greedy", "'n'", "best_of_n"]),
        ({"xyzzy": 1}, ["xyzzy", "lookahead"]),
        ({"steps": "many"}, ["steps", "many", "integer"]),
        ({"seed": "x"}, ["seed", "integer"]),
        ({"backend": "seq2seq"}, ["seq2seq", "decoder-only"]),
        ({"enable_thinking": True}, ["think_end_token"]),
        ({"peft": "a", "delta": "b"}, ["peft", "delta"]),
        ({"max_batch_tokens": 0}, ["max_batch_tokens"]),
        ({"n": 0}, ["n must be an integer >= 1, got 0"]),
        ({"method": "greedy", "n": 8}, ["no option 'n'", "best_of_n", "Leave it out"]),
        ({"pretrained": "a/policy"}, ["Pass reward=", "a/policy", "greedy"]),
        ({"rollout": "vllm"}, ["needs vllm_url"]),
        ({"vllm_url": "http://127.0.0.1:8000"}, ["rollout=vllm"]),
        ({"rollout": "local", "vllm_model": "m"}, ["rollout=local asks none"]),
        ({"rollout": "sglang"}, ["local, vllm"]),
        ({"rollout": "vllm", "vllm_url": "somewhere"}, ["vllm_url"]),
        ({"rollout": "vllm", "vllm_modle": "m"}, ["vllm_model"]),
    ],
)
def test_what_cannot_work_is_refused(options, words):
    with pytest.raises(ConfigError) as error:
        read(options)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "paper", "lr": 0.1, "n": 4},
        {"steps": 0, "lr": 0.5},
        {"lam": -1},
        {"method": "greedy", "preset": "paper"},
        {"method": "self_consistency", "pretrained": "a/policy"},
        {"method": "best_of_n", "pretrained": "a/policy"},
        {"reward": "a/reward"},
        {"enable_thinking": True, "think_end_token": "</think>"},
    ],
)
def test_what_only_looks_contradictory_is_accepted(options):
    read(options)


def test_the_evaluator_is_decided_by_whether_there_is_a_reward_model():
    alone = {"method": "best_of_n", "pretrained": "a/policy"}
    assert read(alone).config.evaluator == "self_certainty" and not read(alone).needs_reward
    assert read({**alone, "reward": "a/reward"}).config.evaluator == "reward"
    assert read({"method": "best_of_n"}).config.evaluator == "reward"
    bare = read({"method": "best_of_n"}, paired=True, rewarded=False)
    assert bare.config.evaluator == "self_certainty"
    with pytest.raises(ConfigError, match="needs a reward model"):
        read({**alone, "evaluator": "reward"})


def test_a_loaded_pair_takes_no_loading_arguments():
    assert read({"batch_size": 4, "n": 2}, paired=True).config.n == 2
    for name in ("pretrained", "reward", "dtype", "device", "reward_dtype", "revision"):
        with pytest.raises(ConfigError, match=name):
            read({name: "x"}, paired=True)


def test_names_of_hflm_are_complete_and_no_name_has_two_owners():
    from lm_eval.models.huggingface import HFLM

    parameters = inspect.signature(HFLM.__init__).parameters.values()
    named = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert named - {"self", "pretrained"} == HFLM_NAMES
    assert not HFLM_NAMES & PASSED_ON
    for method in METHODS:
        assert not set(option_names(method)) & COMMON_NAMES, method


def test_every_argument_documented_as_used_with_a_pair_exists():
    assert arguments._STILL_USED <= HFLM_NAMES


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run --model nabla --model_args method=nabla,stepz=3", {"method": "nabla", "stepz": 3}),
        ("run -M nabla -a n=4 lr=0.1 --tasks x", {"n": 4, "lr": 0.1}),
        ("run --model=nabla --model_args n=4 --model_args lr=0.1", {"n": 4, "lr": 0.1}),
        ('run --model nabla --model_args {"n":2}', {"n": 2}),
        ("run --model nabla --tasks x", {}),
        ("run --model hf --model_args stepz=3", None),
        ("ls tasks", None),
        ("run --model", None),
        ("run --model nabla --config /nowhere.yaml", None),
    ],
)
def test_command_lines_are_read_as_lm_eval_reads_them(line, expected):
    assert model_args(line.split()) == expected


def test_model_args_of_a_config_file_are_read(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: nabla\nmodel_args: {stepz: 3}\ntasks: [x]\n")
    assert model_args(["run", "--config", str(file)]) == {"stepz": 3}
    assert model_args(["run", "--config", str(file), "--model", "hf"]) is None


def test_a_wrong_command_line_ends_in_one_paragraph_without_loading_torch():
    code = (
        "import sys; from nabla_eval.harness.preflight import check_command_line\n"
        "try: check_command_line(['run', '--model', 'nabla', '--model_args', 'stepz=3'])\n"
        "finally: print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.strip() == "[]"
    assert "stepz" in done.stderr and "steps" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_right_command_line_is_let_through(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    check_command_line(["run", "--model", "nabla", "--model_args", "steps=3"])
    check_command_line(["run", "--model", "hf", "--model_args", "stepz=3"])


def test_our_errors_end_a_process_without_a_traceback():
    code = (
        "from nabla_eval.harness.preflight import plain_errors\n"
        "from nabla_eval.errors import ContextError\n"
        "plain_errors(); plain_errors()\n"
        "raise {}('too long')"
    )
    ours, other = (
        subprocess.run(
            [sys.executable, "-c", code.format(kind)], capture_output=True, text=True, check=False
        )
        for kind in ("ContextError", "RuntimeError")
    )
    assert (ours.returncode, ours.stderr) == (1, "Error: too long\n")
    assert other.returncode == 1 and "Traceback" in other.stderr
