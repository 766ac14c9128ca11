"""No file, folder or server that others made makes a terminal do anything: bytes are looked at.

Each string of each file is replaced by text that a terminal would obey, keys too. Whether a command
refuses the file or reads it, what it prints can be seen. The guard of the streams is away, so that
our own ways out are what is tested; `test_terminal.py` tests it.
"""

from __future__ import annotations

import io
import json
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from click.testing import CliRunner
from hostile import HOSTILE, MANIFEST, World, loaded, rewritten, spoilings, unseen
from run_folders import sample, write_run
from scripted_server import connect, talking
from told_runs import guided_records, searched_records, told_records

from nabla_eval.cli.main import main
from nabla_eval.errors import NablaError
from nabla_eval.terminal import LOGGER

BAD = HOSTILE[:9]  # what a folder may be called
OPTIONS = {"seed": "x", "recipe": {"lr": "a"}, "policy": ["b"]}
CONFIG = {"model": "nabla", "model_args": {"method": "greedy", "n": "x"}, "tasks": ["t"]}
LOOKS = (
    "report accuracy @/more/told", "report rejection @/more/told --format csv",
    "trace list @/more/told", "trace show @/more/told 0",
)  # fmt: skip
RUN = "run --method greedy --limit 1 --output @/run"
CARD = "embedded card @/pair"
PAIR = "check-pair @/pair/policy @/pair/reward"
TRAIN = (
    "train sft --policy @/pair/policy --data @/rows.jsonl --device cpu --output @/sft --resume "
    "--steps 1 --batch-size 1"
)
# Files of the world, of whose strings (in JSON Lines those of the first) each is replaced, and who
# reads them by turns; @ is the world's folder, whose own name is foreign too.
FILES = {
    "more/told/run.json": LOOKS,
    "more/told/trace-rank0.jsonl": LOOKS,
    "more/told/model/samples_toy_2026-11-24T10-00-00.000001.jsonl": LOOKS,
    "sweep.yaml": ("sweep @/sweep.yaml --dry-run --output @/study",),
    "study/twin_n2-nabla_countdown-s0/run.json": ("sweep @/sweep.yaml --dry-run --output @/study",),
    "pair/card.json": (CARD, "embedded verify @/pair", f"{CARD} --json", CARD),
    "problems/aime24.jsonl": ("data check @/problems", "data check @/problems --json"),
    "pair/policy/config.json": (PAIR, f"{PAIR} --json"),
    "pair/policy/tokenizer_config.json": (PAIR, f"{PAIR} --json"),
    "pair/policy/generation_config.json": (PAIR, f"{PAIR} --json"),
    "rows.jsonl": ("train sft --policy @/nowhere --data @/rows.jsonl --output @/new",),
    "sft/options.json": (TRAIN,),
    "run/run.json": (RUN,),
    "config.yaml": ("run --config @/config.yaml --output @/other",),
}
# What commands say of some of these files, whichever of its strings is another.
SAID = {
    "sft/options.json": {"other options"},
    "run/run.json": {"made with", "Continuing", "Error"},
    "rows.jsonl": {"Error"},
}


@pytest.fixture(autouse=True)
def no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nabla_eval.cli.main.guard_streams", lambda: None)
    monkeypatch.setattr("nabla_eval.harness.preflight.guard_streams", lambda: None)


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that are stopped before anything is loaded."""
    evaluate = "nabla_eval.runs.evaluate.Evaluator.evaluate"
    monkeypatch.setattr(evaluate, Mock(side_effect=KeyboardInterrupt))


def shown(*arguments: object, code: int | None = None) -> str:
    """What a command prints on both streams, every character of which can be seen."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert code in (None, result.exit_code), (arguments, result.output)
    for text in (result.stdout, result.stderr):
        assert not unseen(text), (arguments, unseen(text))
    return result.output


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("foreign") / f"world{BAD}")
    for path in (name for name in FILES if name.endswith("run.json")):
        made.put(made.root / path, json.dumps({**MANIFEST, "versions": {"torch": "2"}}))
    made.put(made.root / "sft/options.json", json.dumps(OPTIONS))
    made.put(made.root / "config.yaml", yaml.safe_dump(CONFIG))
    return made


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("name", FILES)
def test_each_string_of_a_file(name: str, world: World) -> None:
    file, said = world.root / name, set()
    if name == "run/run.json":
        file.unlink()
        assert "Running into" in shown(*words(RUN, world), code=130)
        file.with_name("trace-rank0.jsonl").write_text("{}\n")  # it has an answer to keep
    whole = file.read_bytes()
    line = 0 if file.suffix == ".jsonl" else None
    values = list(spoilings(loaded(whole, file)))
    for number, value in enumerate(values):
        file.write_bytes(rewritten(whole, file, lambda _, value=value: value, line))
        printed = shown(*words(FILES[name][number % len(FILES[name])], world))
        found = {word for word in SAID.get(name, ()) if word in printed}
        assert found or name not in SAID, printed
        said |= found
    file.write_bytes(whole)
    assert len(values) > 3 and said == SAID.get(name, set())


def words(command: str, world: World) -> list[str]:
    return [word.replace("@", str(world.root)) for word in shlex.split(command)]


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
    for name in (f"a{BAD}", "b"):
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


@pytest.mark.usefixtures("stopped")
def test_what_a_run_is_given_by_others(tmp_path: Path) -> None:
    prompts = tmp_path / f"prompts{BAD}"
    prompts.mkdir()
    out = ("--output", tmp_path / "out")
    (prompts / f"{BAD}.txt").write_text("x")
    shown("run", "--method", "tpo", "--set", f"prompts={prompts}", *out, code=1)
    (prompts / f"{BAD}.txt").unlink()
    (prompts / "tpo_critique.txt").write_text(HOSTILE)
    shown("run", "--method", "tpo", "--set", f"prompts={prompts}", *out)
    shown("run", "--set", f"pretrained={HOSTILE}", "--task", HOSTILE, *out)
    shown("run", "--set", f"{HOSTILE}=1", *out, code=1)
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "training.json").write_text(HOSTILE)
    rows = ("--data", "countdown", "--device", "cpu", "--output", tmp_path / "sft")
    assert "finished training run" in shown("train", "sft", "--size", "64", *rows, code=1)


FAULTS = [HOSTILE, {"error": {"message": HOSTILE}}, {"message": HOSTILE}, {"detail": HOSTILE}]
BODIES = [
    {"data": [{"id": HOSTILE}, {"id": "b"}]}, {"data": [{"id": "a", "object": HOSTILE}]},
    {"data": HOSTILE}, {HOSTILE: HOSTILE}, [HOSTILE], {"data": [{HOSTILE: 1}]}, *FAULTS,
]  # fmt: skip


def answers() -> Iterator[bytes]:
    """Answers of a server, each with hostile text in one place."""
    raw = HOSTILE.replace("\r", "").encode()
    yield from (start + raw + b"\r\n\r\n" for start in (b"HTTP/1.1 404 ", b"HTTP/1.1 ", b""))
    for status in ("200 OK", "400 ", "401 ", "404 ", "503 ", "302 "):
        for body in BODIES if status == "200 OK" else FAULTS:
            text = body if body is HOSTILE else json.dumps(body, ensure_ascii=False)
            head = b"Location: http://127.0.0.1:9/" + raw + b"\r\nContent-Type: " + raw
            size = b"\r\nContent-Length: %d\r\n\r\n" % len(text.encode())
            start = b"HTTP/1.1 " + status.encode() + raw * status.endswith(" ") + b"\r\n"
            yield start + head + size + text.encode()


@pytest.mark.usefixtures("stopped")
def test_each_string_that_a_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the client, whose errors the command shows and whose warning is logged."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    LOGGER.addHandler(handler)
    for said in answers():
        with talking(said) as wire, pytest.raises(NablaError) as refused:
            connect(wire.url, vllm_attempts=2)
        monkeypatch.setattr("nabla_eval.runs.command.compose", Mock(side_effect=refused.value))
        shown("run", code=1)
    LOGGER.removeHandler(handler)
    assert "away or busy" in log.getvalue() and not unseen(log.getvalue())
