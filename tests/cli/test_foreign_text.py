"""No file, folder or server that others made makes a terminal do anything: bytes are looked at.

Each string of each file is replaced by text that a terminal would obey, keys too. Whether a command
refuses the file or reads it, what it prints can be seen. The guard of the streams is away, so that
our own ways out are what is tested; `test_terminal.py` tests it.
"""

from __future__ import annotations

import io
import json
import logging
import socketserver
import threading
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import model_builders as build
import pytest
import yaml
from click.testing import CliRunner
from foreign import HOSTILE, spoilings, unseen
from run_folders import sample, write_run
from told_runs import guided_records, searched_records, told_records

from nabla_eval.cli.main import main
from nabla_eval.embedded import WEIGHTS
from nabla_eval.engine.completions import Server, ServerOptions
from nabla_eval.errors import NablaError
from nabla_eval.terminal import LOGGER

MANIFEST: dict[str, Any] = {
    "schema": 1, "name": "run", "command": "nabla-eval run", "status": "done", "tasks": ["toy"],
    "limit": 8, "method": "nabla", "preset": "paper", "config": {"n": 4}, "config_hash": "ab",
    "seed": 0, "model_args": {"n": "4"}, "options": {"fewshot": "no"}, "models": {"policy": "p"},
    "versions": {"torch": "2"}, "device": "cpu", "batch_size": 32, "started": "2026-01-01",
    "seconds": 1.0, "wall_seconds": 2.0, "peak_memory": {"bytes": 9, "of": "process"},
    "continued": 0, "error": "RuntimeError",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nabla_eval.cli.main.guard_streams", lambda: None)
    monkeypatch.setattr("nabla_eval.harness.preflight.guard_streams", lambda: None)


def shown(*arguments: object, code: int | None = None) -> str:
    """What a command prints on both streams, every character of which can be seen."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert code in (None, result.exit_code), (arguments, result.output)
    for text in (result.stdout, result.stderr):
        assert not unseen(text), (arguments, unseen(text))
    return result.output


def a_run(folder: Path, manifest: Any = MANIFEST, record: Any = None, scored: Any = None) -> Path:
    """A run folder whose first record and sample may be others."""
    records, samples = told_records(), [sample(doc, 1.0) for doc in range(3)]
    write_run(
        folder, [record or records[0], *records[1:]], [],
        samples=[scored or samples[0], *samples[1:]],
    )  # fmt: skip
    (folder / "run.json").write_text(json.dumps(manifest))
    return folder


LOOKED_AT = (
    ("report", "accuracy"), ("report", "rejection", "--format", "csv"), ("trace", "list"),
    ("trace", "show", "0"),
)  # fmt: skip
FILES: dict[str, Any] = {
    "manifest": MANIFEST,
    "record": {**told_records()[0], "profiles": {}},
    "scored": sample(0, 1.0),
}


@pytest.mark.parametrize("file", FILES)
def test_each_string_of_a_run_folder(file: str, tmp_path: Path) -> None:
    for number, value in enumerate(spoilings(FILES[file])):
        folder = a_run(tmp_path / f"{number}", **{file: value})
        for command, name, *rest in LOOKED_AT:
            shown(command, name, folder, *rest)
    assert number > 10


KEPT = ("schema", "id", "method", "config", "config_hash", "key", "stop", "kind", "verdict", "by")


def spoiled_record(value: Any) -> Any:
    """A trace line that can be read, and is hostile in every string where it may."""
    if isinstance(value, dict):
        return {k: v if k in KEPT else spoiled_record(v) for k, v in value.items()}
    if isinstance(value, list):
        return [spoiled_record(each) for each in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_every_string_of_a_run_folder_at_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in (f"a{HOSTILE[:9]}", "b"):
        records = [spoiled_record(each) for each in told_records()]
        samples = [sample(doc, float(name == "b"), seen=HOSTILE) for doc in range(3)]
        samples = [{**each, "doc": {HOSTILE: HOSTILE}, "target": HOSTILE} for each in samples]
        write_run(runs / name, records, [], samples=samples)
        manifest = {**MANIFEST, "name": name + HOSTILE, "versions": {HOSTILE: HOSTILE}}
        (runs / name / "run.json").write_text(json.dumps(manifest))
    (folder, other) = sorted(runs.iterdir())
    for name in ("accuracy", "rejection", "cost", "scaling", "reward"):
        for form in ("rich", "markdown", "csv", "json"):
            shown("report", name, folder, "--format", form, code=0)
    shown("report", "ablation", runs)
    assert "[red]mark" in shown("report", "compare", folder, other, code=0)
    shown("report", "all", runs, "--output", tmp_path / "page", code=0)
    for file in (tmp_path / "page").glob("report.[hm]*"):
        assert not unseen(file.read_text())
    told = shown("trace", "show", folder, "0", code=0)
    assert "[red]mark[/red][link=http://x]up[/link]:smile:" in told
    shown("trace", "list", folder, code=0)
    shown("trace", "html", folder, "-o", tmp_path / "pages", code=0)
    for number, records in enumerate((searched_records(), guided_records())):
        run = tmp_path / f"{number}"
        write_run(run, [spoiled_record(each) for each in records], [1.0] * len(records))
        shown("trace", "show", run, "0", code=0)


SWEEP = {
    "name": "s", "tasks": ["nabla_countdown"], "seeds": ["0"], "limit": "8", "batch_size": "4",
    "device": "cpu", "num_fewshot": "0", "gen_kwargs": {"until": "x"}, "system_instruction": "x",
    "include_path": "tasks", "grid": {"method": ["nabla"]}, "variants": [{"name": "twin"}],
}  # fmt: skip


def test_each_string_of_a_sweep(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    for value in spoilings(SWEEP):
        file.write_text(yaml.safe_dump(value))
        shown("sweep", file, "--dry-run", "--output", tmp_path / "out")


def test_folders_of_a_sweep_that_hold_something_else(tmp_path: Path) -> None:
    sound = {"tasks": "t", "variants": [{"name": "x", "method": "nabla"}]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sound))
    arguments = ("sweep", tmp_path / "sweep.yaml", "--dry-run", "--output", tmp_path / "out")
    cell = next(word for word in shown(*arguments, code=0).split() if word.startswith("x-"))
    for value in spoilings(MANIFEST):
        (tmp_path / "out" / cell).mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / cell / "run.json").write_text(json.dumps(value))
        shown(*arguments)


def test_each_string_of_a_card(tmp_path: Path) -> None:
    for name in ("policy", "reward"):
        (tmp_path / name).symlink_to(WEIGHTS / name)
    content = json.loads((WEIGHTS / "card.json").read_text(encoding="utf-8"))
    commands = cycle([("card",), ("verify",), ("card",), ("card", "--json")])
    for value, (name, *form) in zip(spoilings(content), commands, strict=False):
        (tmp_path / "card.json").write_text(json.dumps(value))
        shown("embedded", name, tmp_path, *form)


def test_each_string_of_problem_sets(tmp_path: Path) -> None:
    row = {"id": "1", "problem": "1+1=?", "answer": "2"}
    entry = {
        "aime24": {"file": "aime24.jsonl", "items": 1, "hash": "h", "dataset": "d", "rows": ["r"]}
    }
    (tmp_path / "aime24.jsonl").write_text(json.dumps(row))
    for value in spoilings(entry):
        (tmp_path / "nabla_data.json").write_text(json.dumps(value))
        shown("data", "check", tmp_path)
        shown("data", "check", tmp_path, "--json")
    (tmp_path / "nabla_data.json").write_text(json.dumps(entry))
    for value in spoilings(row):
        (tmp_path / "aime24.jsonl").write_text(json.dumps(value))
        shown("data", "check", tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return lambda kind: (
        folder / kind
        if (folder / kind).exists()
        else build.save(folder / kind, kind, build.word_tokenizer())
    )


def test_each_string_of_a_checkpoint(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    forms = cycle([(), ("--json",)])
    policy, reward = checkpoint("policy"), checkpoint("outcome")
    bad = tmp_path / f"policy{HOSTILE[:9]}"
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        if not (policy / name).exists():
            continue
        for value in spoilings(json.loads((policy / name).read_text())):
            if bad.exists():
                for file in bad.iterdir():
                    file.unlink()
            bad.mkdir(exist_ok=True)
            for file in policy.iterdir():
                if file.name != name:
                    (bad / file.name).symlink_to(file)
            (bad / name).write_text(json.dumps(value))
            shown("check-pair", bad, reward, *next(forms))


def test_each_string_of_training_data(tmp_path: Path) -> None:
    rows = {
        ("sft", "--policy", tmp_path / f"policy{HOSTILE[1:9]}"): {"problem": "1+1", "answer": "2"},
        ("align-reward",): {"prompt": "1+1=?", "chosen": "2", "rejected": "3"},
    }
    for command, row in rows.items():
        for number, value in enumerate([*spoilings(row), row]):
            if value is row and command == ("align-reward",):
                continue  # that would be trained on
            file = tmp_path / f"rows{HOSTILE[1:9]}{number}.jsonl"
            file.write_text(json.dumps(value) + "\n" + json.dumps({**row, "prompt": 1}))
            shown("train", *command, "--data", file, "--output", tmp_path / f"{number}", code=1)


def test_each_string_of_a_stopped_training_run(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"problem": "1+1", "solution": "2"}))
    data = ("--data", tmp_path / "rows.jsonl", "--steps", "1", "--batch-size", "1")
    arguments = ("train", "sft", "--policy", WEIGHTS / "policy", "--device", "cpu", *data)
    out = tmp_path / f"out{HOSTILE[:9]}"
    out.mkdir()
    for value in spoilings({"seed": "x", "recipe": {"lr": "a"}, "policy": ["b"]}):
        (out / "options.json").write_text(json.dumps(value))
        assert "other options" in shown(*arguments, "--output", out, "--resume", code=1)
    (out / "training.json").write_text(HOSTILE)
    assert "finished training run" in shown(*arguments, "--output", out, code=1)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that are stopped before anything is loaded."""

    def execute(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nabla_eval.runs.evaluate.Evaluator.evaluate", execute)


@pytest.mark.usefixtures("stopped")
def test_each_string_of_a_run_that_is_continued(tmp_path: Path) -> None:
    folder = tmp_path / f"run{HOSTILE[:9]}"
    arguments = ("run", "--method", "greedy", "--limit", "1", "--output", folder)
    assert "Running into" in shown(*arguments, code=130)
    sound = json.loads((folder / "run.json").read_text())
    seen = set()
    for value in spoilings({**sound, "versions": {"torch": "2", "python": "3"}}):
        (folder / "run.json").write_text(json.dumps(value))
        printed = shown(*arguments)
        seen |= {word for word in ("made with", "Continuing", "Error") if word in printed}
    assert seen == {"made with", "Continuing", "Error"}


@pytest.mark.usefixtures("stopped")
def test_what_a_run_is_given_by_others(tmp_path: Path) -> None:
    prompts = tmp_path / f"prompts{HOSTILE[:9]}"
    prompts.mkdir()
    out = ("--output", tmp_path / "out")
    (prompts / f"{HOSTILE[:9]}.txt").write_text("x")
    shown("run", "--method", "tpo", "--set", f"prompts={prompts}", *out, code=1)
    (prompts / f"{HOSTILE[:9]}.txt").unlink()
    (prompts / "tpo_critique.txt").write_text(HOSTILE)
    shown("run", "--method", "tpo", "--set", f"prompts={prompts}", *out)
    config = {"model": "nabla", "model_args": {"method": "greedy", "n": "x"}, "tasks": ["t"]}
    for value in spoilings(config):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(value))
        shown("run", "--config", tmp_path / "config.yaml", *out)
    shown("run", "--set", f"pretrained={HOSTILE}", "--task", HOSTILE, *out)
    shown("run", "--set", f"{HOSTILE}=1", *out, code=1)


BODIES = [
    {"data": [{"id": HOSTILE}, {"id": "b"}]}, {"data": [{"id": "a", "object": HOSTILE}]}, HOSTILE,
    {"data": HOSTILE}, {HOSTILE: HOSTILE}, {"error": {"message": HOSTILE}}, {"message": HOSTILE},
    {"detail": HOSTILE}, [HOSTILE], {"data": [{HOSTILE: 1}]},
]  # fmt: skip


def answers() -> list[bytes]:
    """Answers of a server, each with hostile text in one place."""
    raw = HOSTILE.replace("\r", "").encode()
    found = [start + raw + b"\r\n\r\n" for start in (b"HTTP/1.1 404 ", b"HTTP/1.1 ", b"")]
    texts = [each if each is HOSTILE else json.dumps(each, ensure_ascii=False) for each in BODIES]
    for status in ("200 OK", "400 ", "401 ", "404 ", "503 ", "302 "):
        for text in texts:
            head = b"Location: http://127.0.0.1:9/" + raw + b"\r\nContent-Type: " + raw
            size = b"\r\nContent-Length: %d\r\n\r\n" % len(text.encode())
            start = b"HTTP/1.1 " + status.encode() + raw * status.endswith(" ") + b"\r\n"
            found.append(start + head + size + text.encode())
    return found


@pytest.mark.usefixtures("stopped")
def test_each_string_that_a_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the client, whose errors the command shows and whose warning is logged."""
    log, refusals = io.StringIO(), []
    handler = logging.StreamHandler(log)
    LOGGER.addHandler(handler)

    class Answer(socketserver.BaseRequestHandler):
        said = b""

        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(self.said)

    with socketserver.TCPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        for Answer.said in answers():
            with pytest.raises(NablaError) as refused:
                Server(ServerOptions(vllm_url=url, vllm_attempts=2), sleep=lambda _: None)
            refusals.append(refused.value)
        server.shutdown()
    LOGGER.removeHandler(handler)
    assert "away or busy" in log.getvalue() and not unseen(log.getvalue())
    for error in refusals:
        monkeypatch.setattr("nabla_eval.runs.command.compose", Mock(side_effect=error))
        shown("run", code=1)
