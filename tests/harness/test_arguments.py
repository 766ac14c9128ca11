"""--model_args: sorted by owner, and refused before anything is loaded."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from nabla_eval import embedded
from nabla_eval.errors import ConfigError
from nabla_eval.harness import arguments
from nabla_eval.harness.arguments import COMMON_NAMES, HFLM_NAMES, PASSED_ON, read
from nabla_eval.harness.preflight import check_command_line
from nabla_eval.methods.registry import METHODS, option_names


def test_a_pair_is_named_alone():
    found = read({"pair": "words"})
    assert (found.pretrained, found.reward) == tuple(map(str, embedded.paths("words")))
    for also in ({"pretrained": "org/policy"}, {"reward": "org/reward"}):
        with pytest.raises(ConfigError, match="pair=words is an embedded policy with its reward"):
            read({"pair": "words", **also})
    with pytest.raises(ConfigError, match=r"no embedded pair 'word'.* Did you mean words"):
        read({"pair": "word"})


def test_nothing_given_is_nabla_on_the_embedded_pair():
    found = read({})
    assert (found.method, found.preset, found.seed) == ("nabla", None, None)
    assert (found.pretrained, found.reward, found.given) == (None, None, frozenset())


def test_every_argument_goes_to_its_owner():
    found = read({
        "method": "nabla", "preset": "paper", "n": "4", "lam": -1.0, "seed": 7,
        "pretrained": "a/policy", "reward": "a/reward", "reward_dtype": "float64",
        "dtype": "float64", "device_map": "auto", "trace_dir": "somewhere", "temperature": None,
    })  # fmt: skip
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
        ({"xyzzy": 1}, ["xyzzy", "lookahead"]),
        ({"steps": "many"}, ["steps", "many", "integer"]),
        ({"seed": "x"}, ["seed", "integer"]),
        ({"backend": "seq2seq"}, ["seq2seq", "decoder-only"]),
        ({"enable_thinking": True}, ["think_end_token"]),
        ({"max_batch_tokens": 0}, ["max_batch_tokens"]),
        ({"batch_size": "0"}, ["batch_size must be an integer >= 1, got '0'. Try batch_size=32."]),
        ({"batch_size": "auto:x"}, ["the N of batch_size=auto:N must be an integer >= 1, got 'x'"]),
        ({"method": "no_such.module"}, ["no_such.module", "cannot be imported", "PYTHONPATH"]),
        ({"method": "nabla_eval.errors"}, ["nabla_eval.errors has no METHOD"]),
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


def test_a_zeroth_order_twin_and_a_method_alone_are_no_contradiction():
    for options in (
        {"preset": "paper", "lr": 0.1, "n": 4, "steps": 0, "lam": -1},
        {"method": "greedy", "preset": "paper"},
        {"method": "self_consistency", "pretrained": "a/policy"},
        {"reward": "a/reward", "enable_thinking": True, "think_end_token": "</think>"},
    ):
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
    assert not HFLM_NAMES & PASSED_ON and arguments._STILL_USED <= HFLM_NAMES
    for method in METHODS:
        assert not set(option_names(method)) & COMMON_NAMES, method


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("run --model nabla --model_args method=nabla,stepz=3", True),
        ("run -M nabla -a n=4 stepz=3 --tasks x", True),
        ("--model=nabla --model_args n=4 --model_args stepz=3", True),
        ('run --model nabla --model_args {"stepz":2}', True),
        ("run --config FILE", True),
        ("run --config FILE --model_args n=4", False),
        ("run --config FILE --model hf", False),
        ("run --model nabla --model_args steps=3", False),
        ("run --model hf --model_args stepz=3", False),
        ("ls tasks", False),
        ("run --model", False),
        ("run --method greedy --output results", False),  # nabla-eval's own
        ("run --model nabla --config /nowhere.yaml", False),
    ],
)
def test_command_lines_are_read_as_lm_eval_reads_them(line, refused, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    file = tmp_path / "run.yaml"
    file.write_text("model: nabla\nmodel_args: {stepz: 3}\ntasks: [x]\n")
    words = line.replace("FILE", str(file)).split()
    if not refused:
        check_command_line(words)
        assert capsys.readouterr() == ("", ""), "another program's options are no mistake"
        return
    with pytest.raises(SystemExit, match=r"'stepz'.* steps"):
        check_command_line(words)


BEFORE_TORCH = """
import sys
from lm_eval.__main__ import cli_evaluate
sys.argv[1:] = ["--model", "nabla", "--model_args", "method=nabla,stepz=3"]
try:
    cli_evaluate()
finally:
    print([name for name in ("torch", "transformers") if name in sys.modules])
"""
OURS = """
from nabla_eval.harness.preflight import plain_errors
from nabla_eval.errors import ContextError
plain_errors(); plain_errors()
raise {}("too long")
"""


@pytest.mark.parametrize(
    ("code", "said", "printed"),
    [
        (BEFORE_TORCH, "'stepz'", "[]"),
        (OURS.format("ContextError"), "Error: too long", ""),
        (OURS.format("RuntimeError"), "Traceback", ""),
    ],
)
def test_what_is_wrong_ends_a_process_in_one_paragraph(code, said, printed):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (1, printed)
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 or said == "Traceback"
