"""Whatever stands in arguments, files that users write or share, and a server's answers.

It is read, or refused by our errors. Damaged traces are in `traces/test_damage.py`, torn results in
`analysis/test_folders.py`, hostile text to be graded in `grading/test_hostile.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from hostile import answered, odd, spoiled, texts, values
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from run_folders import record, write_run
from scripted_server import talking

from nabla_eval.analysis.folders import read_folder
from nabla_eval.embedded import WEIGHTS
from nabla_eval.embedded.card import read_card, render_card, verify_files
from nabla_eval.engine.vllm import VLLMRollout
from nabla_eval.engine.vllm_client import Completion, Server, ServerOptions
from nabla_eval.errors import NablaError
from nabla_eval.grading import equal, extract
from nabla_eval.harness.arguments import read
from nabla_eval.harness.preflight import check_command_line
from nabla_eval.harness.problems import store
from nabla_eval.harness.problems.sets import SETS
from nabla_eval.harness.task_files import list_tasks
from nabla_eval.methods.questions import PLACES
from nabla_eval.methods.registry import METHODS, configure, option_names
from nabla_eval.options import Sampling
from nabla_eval.protocol import Generate
from nabla_eval.runs.command import compose
from nabla_eval.runs.folder import inspect
from nabla_eval.runs.sweep_file import KEYS, read_sweep
from nabla_eval.testing import tiny_pair, tiny_problems
from nabla_eval.traces import TraceWriter
from nabla_eval.traces import read as read_traces
from nabla_eval.traces.manifest import read_manifest
from nabla_training.data import open_rows
from nabla_training.folder import claim

in_a_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100
)


@pytest.fixture(autouse=True)
def nothing_is_written_elsewhere(tmp_path):
    """No file comes into being beside the folder that a test may write to."""
    inner = tmp_path / "inner"
    inner.mkdir()
    before = Path.cwd()
    os.chdir(inner)
    yield
    os.chdir(before)
    assert list(tmp_path.iterdir()) == [inner]


@pytest.fixture
def here(nothing_is_written_elsewhere, tmp_path):
    return tmp_path / "inner"


def as_json(value):
    return json.dumps(value).encode()


def as_yaml(value):
    return yaml.safe_dump(value, allow_unicode=True).encode()


def lines(*sound):
    """JSON Lines: sound ones, and one that is not."""
    bad = texts | spoiled(sound[0]).map(as_json)
    good = b"".join(as_json(one) + b"\n" for one in sound)
    return bad.map(lambda line: good + line + b"\n")


CONFIG = {
    "model": "nabla", "model_args": {"method": "greedy"}, "tasks": ["nabla_countdown"],
    "limit": 8, "device": "cpu", "batch_size": 4, "seed": 3, "gen_kwargs": {"temperature": 0},
}  # fmt: skip
SWEEP = {
    "name": "s", "tasks": ["nabla_countdown"], "seeds": [0, 1], "limit": 8, "batch_size": 4,
    "device": "cpu", "num_fewshot": 0, "gen_kwargs": {"max_gen_toks": 8}, "system_instruction": "x",
    "apply_chat_template": True, "fewshot_as_multiturn": False, "include_path": "tasks",
    "grid": {"n": [2, 4], "method": ["nabla", "best_of_n"]},
    "variants": [{"name": "twin", "steps": 0}, {"name": "dto", "lr": [0.1, 0.2]}],
}  # fmt: skip
MANIFEST = compose(["--limit", "8"]).manifest("nabla-eval run", "run")
CARD = json.loads((WEIGHTS / "card.json").read_text(encoding="utf-8"))
TASK = {"task": "t", "dataset_kwargs": {"problem_set": "aime24"}}
NO_TRACE = {"schema": 1, "id": "t/0/0", "ledger": {"__float__": "nan"}}


def command_line(*words):
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            check_command_line(words)
        except SystemExit as refusal:
            assert str(refusal).startswith("Error: ")


def config(file):
    answered(lambda: compose(["--config", str(file)]))
    command_line("--model", "nabla", "--config", str(file))


def sweep(file):
    found = answered(lambda: read_sweep(file))
    for cell in found.cells if found else ():
        inside = (file.parent / "out" / cell.folder).resolve()
        assert inside.parent == file.parent / "out" and len(os.fsencode(inside.name)) <= 255


def run_json(file):
    found = answered(lambda: read_manifest(file.parent))
    if found is not None and answered(lambda: inspect(file.parent, MANIFEST)):
        assert found["continued"] + 1 > 0 and str(found["name"]) is found["name"]


def card(file):
    answered(lambda: verify_files(file.parent))
    answered(lambda: render_card(read_card(file.parent)))


def trace(file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a torn last line
        answered(lambda: read_traces(file))
        answered(lambda: TraceWriter(file).__enter__().__exit__(None, None, None))


FILES = {  # name: what stands in it, and who reads it
    "config.yaml": (
        spoiled(CONFIG).map(as_yaml) | values.map(lambda v: as_yaml({"model_args": v})) | texts,
        config,
    ),
    "sweep.yaml": (spoiled(SWEEP).map(as_yaml), sweep),
    "task.yaml": (
        texts | spoiled(TASK).map(as_yaml),
        lambda file: answered(lambda: list_tasks(file.parent)),
    ),
    "run.json": (spoiled(MANIFEST).map(as_json) | texts, run_json),
    "card.json": (spoiled(CARD).map(as_json) | texts, card),
    "options.json": (
        spoiled({"seed": 0, "lr": 0.1}).map(as_json) | texts,
        lambda file: answered(lambda: claim(file.parent, {"seed": 0, "lr": 0.1}, resume=True)),
    ),
    "rows.jsonl": (
        lines({"problem": "1+1=?", "solution": "\\boxed{2}", "answer": "#### 2"}),
        lambda file: answered(lambda: open_rows(str(file))),
    ),
    "trace-rank0.jsonl": (lines(NO_TRACE), trace),
}


@pytest.mark.parametrize("name", FILES)
@in_a_folder
@given(draw=st.data())
def test_files_with_one_thing_wrong_or_of_any_text(here, name, draw):
    contents, look = FILES[name]
    (here / name).write_bytes(draw.draw(contents))
    look(here / name)
    (here / name).unlink(missing_ok=True)


@in_a_folder
@given(kind=st.sampled_from(["run.json", "results_1.json", "samples_toy.jsonl"]), draw=st.data())
def test_files_of_a_finished_run(tmp_path_factory, kind, draw):
    home = tmp_path_factory.mktemp("run")
    write_run(home, [record(0), record(1)], [1.0, 0.0], seed=3)
    (home / "run.json").write_text(json.dumps({**MANIFEST, "status": "done"}))
    pattern = {"r": "run.json", "results": "results_*.json", "samples": "samples_*.jsonl"}
    (file,) = home.rglob(pattern.get(kind.partition("_")[0], kind))
    sound = [json.loads(line) for line in file.read_text().splitlines() if line]
    bad = draw.draw(texts | spoiled(sound[0]).map(lambda value: json.dumps(value).encode()))
    rest = b"\n".join(json.dumps(one).encode() for one in sound[1:])
    file.write_bytes(bad + (b"\n" + rest + b"\n" if rest else b""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in answered(lambda: read_folder(home)) or ():
            assert all(type(one) is float for scores in part.scores.values() for one in scores)


@in_a_folder
@given(
    name=st.sampled_from(sorted(SETS)), content=lines({"id": 1, "problem": "1+1=?", "answer": "2"})
)
def test_problem_sets(here, name, content):
    (here / SETS[name].file).write_bytes(content)
    found = answered(lambda: store.read(here, SETS[name]))
    assert found is None or all(isinstance(one["answer"], str) for one in found.items)
    (here / SETS[name].file).unlink()


@in_a_folder
@given(name=st.sampled_from(sorted(PLACES)), content=texts | st.text().map(str.encode))
def test_prompts(tmp_path_factory, name, content):
    folder = tmp_path_factory.mktemp("prompts")  # prompts are read once
    (folder / f"{name}.txt").write_bytes(content)
    method = "tpo" if name.startswith("tpo") else name.partition("_")[0]
    method = {"tot": "tree_of_thought"}.get(method, method)
    answered(lambda: configure(method, {"prompts": str(folder)}))


def test_spoiled_values_are_of_every_kind():
    """The fuzz reaches the refusals and the readings: neither everything passes nor nothing."""
    seen = set()

    @settings(max_examples=200, database=None)
    @given(spoiled(MANIFEST))
    def look(value):
        assume(isinstance(value, dict))
        seen.add(value.keys() == MANIFEST.keys())

    look()
    assert seen == {True, False}


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
    command_line("--model", "nabla", "--model_args", text)


SWEEPS = {
    "structure": st.dictionaries(
        st.sampled_from(sorted(KEYS)) | st.text(max_size=4), values, max_size=5
    ).map(lambda own: as_yaml({"tasks": "a", "grid": {"method": ["greedy"]}, **own})),
    "bytes": st.binary(max_size=60)
    | st.text("abc:[]{}&*!-|>'\"\n \t#%@`,?0", max_size=40).map(str.encode),
}


@pytest.mark.parametrize("kind", SWEEPS)
@settings(in_a_folder, max_examples=200)
@given(draw=st.data())
def test_sweeps_of_any(here, kind, draw):
    (here / "sweep.yaml").write_bytes(draw.draw(SWEEPS[kind]))
    answered(lambda: read_sweep(here / "sweep.yaml"))


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
    answer: Future[Completion] = Future()
    answer.set_result(Completion(tuple(tokens), finish))
    with (
        patch.object(remote.server, "submit", lambda body: answer),
        patch.object(remote.server, "hang_up", lambda: None),
    ):
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
def test_sweeps_that_mean_harm(here, text):
    (here / "sweep.yaml").write_text(text)
    with pytest.raises(NablaError):
        read_sweep(here / "sweep.yaml")
