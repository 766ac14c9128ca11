"""Whatever is written into arguments, sweeps and a server's answers: our own errors, or a result.

Traces are damaged in `traces/test_damage.py`, results in `analysis/test_folders.py`, and
grading reads hostile text in `grading/test_hostile.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
from functools import cache
from unittest.mock import patch

import pytest
import yaml
from hostile import answered, odd, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_server import talking

from nabla_eval.engine.vllm import VLLMRollout
from nabla_eval.engine.vllm_client import Completion, Server, ServerOptions
from nabla_eval.errors import NablaError
from nabla_eval.grading import equal, extract
from nabla_eval.harness.arguments import read
from nabla_eval.harness.preflight import check_command_line
from nabla_eval.methods.registry import METHODS, option_names
from nabla_eval.options import Sampling
from nabla_eval.protocol import Generate
from nabla_eval.runs.sweep_file import KEYS, read_sweep
from nabla_eval.testing import tiny_pair, tiny_problems

in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
names_of_methods = st.sampled_from(sorted(METHODS))
NAMES = sorted({name for method in METHODS for name in option_names(method)})
NAMES += [
    "method", "preset", "seed", "rollout", "vllm_url", "vllm_attempts", "reward", "pretrained",
    "max_errors", "allow_errors", "max_batch_tokens", "trace_dir", "step_delimiter", "vocab",
]  # fmt: skip
names = st.sampled_from(NAMES) | st.text(max_size=6)


@settings(max_examples=300)
@given(options=st.dictionaries(names, values | names_of_methods, max_size=5))
def test_model_arguments(options):
    answered(lambda: read(options))


@settings(max_examples=200)
@given(st.lists(st.tuples(names, odd | st.text(max_size=8)), max_size=4), st.text(max_size=9))
def test_model_argument_strings(pairs, rest):
    text = ",".join(f"{name}={value}" for name, value in pairs) + rest
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            check_command_line(["--model", "nabla", "--model_args", text])
        except SystemExit as refusal:
            assert str(refusal).startswith("Error: ")


@settings(in_a_folder, max_examples=200)
@given(
    content=st.dictionaries(st.sampled_from(sorted(KEYS)) | st.text(max_size=4), values, max_size=5)
)
def test_sweeps_of_any_structure(tmp_path, content):
    file = tmp_path / "sweep.yaml"
    sound = {"tasks": "nabla_countdown", "grid": {"method": ["greedy"]}}
    file.write_text(yaml.safe_dump({**sound, **content}, allow_unicode=True), encoding="utf-8")
    answered(lambda: read_sweep(file))


@settings(in_a_folder, max_examples=200)
@given(
    content=st.binary(max_size=60)
    | st.text("abc:[]{}&*!-|>'\"\n \t#%@`,?0", max_size=40).map(str.encode)
)
def test_sweeps_of_any_bytes(tmp_path, content):
    file = tmp_path / "sweep.yaml"
    file.write_bytes(content)
    answered(lambda: read_sweep(file))


models = json.dumps({"data": [{"id": "served", "max_model_len": 64}]}).encode()
choices = st.fixed_dictionaries({}, optional={"token_ids": values, "finish_reason": values})
replies = st.one_of(
    st.binary(max_size=30),
    values.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({"choices": values | st.lists(choices, max_size=2)}).map(
        lambda value: json.dumps(value).encode()
    ),
    st.fixed_dictionaries({"data": values}).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=300)
@given(first=replies | st.just(models), second=replies)
def test_answers_of_a_server(first, second):
    left = [first, second]

    def say(connection):
        body = left.pop(0) if len(left) > 1 else left[0]
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    with talking(say) as wire:
        options = ServerOptions(vllm_url=wire.url, vllm_attempts=2)
        server = answered(lambda: Server(options, lambda _: None))
        if server is not None:
            found = answered(lambda: server.complete({"prompt": [1]}))
            assert found is None or all(type(token) is int for token in found.tokens)


@cache
def rollout():
    pair = tiny_pair(seed=3)
    server = object.__new__(Server)
    server.options = ServerOptions(vllm_url="http://127.0.0.1:1")
    server.model, server.context = "served", 64
    with patch.object(VLLMRollout, "_compare"):  # which asks the server
        return VLLMRollout(pair.policy, server), pair


@settings(max_examples=100)
@given(
    tokens=st.lists(st.integers(-2, 12) | st.integers(), max_size=8),
    finish=st.sampled_from(["stop", "length", "abort", "None", ""]),
)
def test_token_ids_that_a_server_writes(tokens, finish):
    remote, pair = rollout()
    (problem,) = tiny_problems(pair, 1, max_new_tokens=5)
    answer = [Completion(tuple(tokens), finish)]
    with patch.object(remote.server, "complete_all", lambda bodies: answer * len(bodies)):
        found = answered(lambda: remote([Generate(problem, problem.key, Sampling())]))
    if found is not None:
        assert 1 <= len(found[0].tokens) <= 5
        assert all(0 <= token < pair.policy.vocabulary for token in found[0].tokens)


@settings(max_examples=60)
@given(st.text("\\{}$^_0123456789/.,%()[]+-*=x boxedfrac\x1b\x00\u202e", max_size=40))
def test_graded_text(text):
    answer = extract(text)
    assert answer is None or isinstance(answer, str)
    assert isinstance(equal("1/2", text), bool)


@pytest.mark.parametrize("text", ["a: &a [*a]", "{" * 500, "- " * 500, "!!python/object:os.system"])
def test_sweeps_that_mean_harm(tmp_path, text):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(NablaError):
        read_sweep(tmp_path / "sweep.yaml")
