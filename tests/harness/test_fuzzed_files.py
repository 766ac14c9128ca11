"""Whatever stands in a file that users write or share: it is read, or refused by our errors.

Arguments, sweeps and servers are in `test_fuzzed_parsers.py`, damaged traces in
`traces/test_damage.py`, torn results in `analysis/test_folders.py`.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import answered, spoiled, texts, values
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from run_folders import record, write_run

from nabla_eval.analysis.folders import read_folder
from nabla_eval.embedded import WEIGHTS
from nabla_eval.embedded.card import read_card, render_card, verify_files
from nabla_eval.harness.preflight import check_command_line
from nabla_eval.harness.problems import store
from nabla_eval.harness.problems.sets import SETS
from nabla_eval.harness.tasks import list_tasks
from nabla_eval.methods.questions import PLACES
from nabla_eval.methods.registry import configure
from nabla_eval.runs.command import compose
from nabla_eval.runs.folder import inspect
from nabla_eval.runs.sweep_file import read_sweep
from nabla_eval.traces import TraceWriter, read
from nabla_eval.traces.manifest import FILE, Manifest, read_manifest
from nabla_eval.training.data import open_rows
from nabla_eval.training.folder import claim

in_a_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100
)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nothing_is_written_elsewhere(tmp_path: Path) -> Iterator[None]:
    """No file comes into being beside the folder that a test may write to."""
    inner = tmp_path / "inner"
    inner.mkdir()
    before = Path.cwd()
    os.chdir(inner)
    yield
    os.chdir(before)
    assert list(tmp_path.iterdir()) == [inner]


@pytest.fixture
def here(nothing_is_written_elsewhere: None, tmp_path: Path) -> Path:
    return tmp_path / "inner"


def lines(*sound: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """JSON Lines: sound ones, and one that is not."""
    bad = texts | spoiled(sound[0]).map(lambda value: json.dumps(value).encode())
    good = b"".join(json.dumps(one).encode() + b"\n" for one in sound)
    return bad.map(lambda line: good + line + b"\n")


# --- YAML ---------------------------------------------------------------------------------------

CONFIG = {
    "model": "nabla", "model_args": {"method": "greedy"}, "tasks": ["nabla_countdown"],
    "limit": 8, "device": "cpu", "batch_size": 4, "seed": 3, "gen_kwargs": {"temperature": 0},
}  # fmt: skip


@in_a_folder
@given(
    content=spoiled(CONFIG).map(lambda value: yaml.safe_dump(value).encode())
    | st.fixed_dictionaries({"model_args": values}).map(
        lambda value: yaml.safe_dump(value).encode()
    )
    | texts
)
def test_configs_of_lm_eval(here: Path, content: bytes) -> None:
    file = here / "config.yaml"
    file.write_bytes(content)
    answered(lambda: compose(["--config", str(file)]))
    try:
        check_command_line(["--model", "nabla", "--config", str(file)])
    except SystemExit as refusal:
        assert str(refusal).startswith("Error: ")


SWEEP = {
    "name": "s", "tasks": ["nabla_countdown"], "seeds": [0, 1], "limit": 8, "batch_size": 4,
    "device": "cpu", "num_fewshot": 0, "gen_kwargs": {"max_gen_toks": 8}, "system_instruction": "x",
    "apply_chat_template": True, "fewshot_as_multiturn": False, "include_path": "tasks",
    "grid": {"n": [2, 4], "method": ["nabla", "best_of_n"]},
    "variants": [{"name": "twin", "steps": 0}, {"name": "dto", "lr": [0.1, 0.2]}],
}  # fmt: skip


@in_a_folder
@given(content=spoiled(SWEEP))
def test_sweeps_with_one_thing_wrong_and_their_folders(here: Path, content: Any) -> None:
    file = here / "sweep.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    found = answered(lambda: read_sweep(file))
    for cell in found.cells if found else ():
        inside = (here / "out" / cell.folder).resolve()
        assert inside.parent == here / "out" and len(os.fsencode(inside.name)) <= 255


@in_a_folder
@given(
    content=texts
    | spoiled({"task": "t", "dataset_kwargs": {"problem_set": "aime24"}}).map(
        lambda value: yaml.safe_dump(value).encode()
    )
)
def test_task_files(here: Path, content: bytes) -> None:
    (here / "task.yaml").write_bytes(content)
    answered(lambda: list_tasks(here))


# --- JSON ---------------------------------------------------------------------------------------

MANIFEST: dict[str, Any] = {
    "schema": 1, "name": "run", "command": "nabla-eval run", "status": "running", "tasks": ["t"],
    "limit": 8, "method": "nabla", "preset": None, "config": {"n": 4}, "config_hash": "ab",
    "seed": 0, "model_args": {}, "options": {}, "models": {}, "versions": {"torch": "2"},
    "device": None, "batch_size": 32, "started": "2026-01-01", "seconds": 1.0, "wall_seconds": 2.0,
    "peak_memory": {"bytes": 9, "of": "process"}, "continued": 0, "error": None,
}  # fmt: skip


@in_a_folder
@given(content=spoiled(MANIFEST).map(lambda value: json.dumps(value).encode()) | texts)
def test_run_json(here: Path, content: bytes) -> None:
    (here / FILE).write_bytes(content)
    wanted: Manifest = MANIFEST  # type: ignore[assignment]
    found = answered(lambda: read_manifest(here))
    if found is not None and answered(lambda: inspect(here, wanted)):
        assert found["continued"] + 1 > 0 and str(found["name"]) is found["name"]


@in_a_folder
@given(
    kind=st.sampled_from(["run.json", "results_1.json", "samples_toy.jsonl"]),
    draw=st.data(),
)
def test_files_of_a_finished_run(
    tmp_path_factory: pytest.TempPathFactory, kind: str, draw: st.DataObject
) -> None:
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


CARD = json.loads((WEIGHTS / "card.json").read_text(encoding="utf-8"))


@in_a_folder
@given(content=spoiled(CARD).map(lambda value: json.dumps(value).encode()) | texts)
def test_model_cards(here: Path, content: bytes) -> None:
    (here / "card.json").write_bytes(content)
    answered(lambda: verify_files(here))
    answered(lambda: render_card(read_card(here)))


@in_a_folder
@given(content=spoiled({"seed": 0, "lr": 0.1}).map(lambda v: json.dumps(v).encode()) | texts)
def test_options_of_a_training_run(here: Path, content: bytes) -> None:
    (here / "options.json").write_bytes(content)
    answered(lambda: claim(here, {"seed": 0, "lr": 0.1}, resume=True))
    (here / "options.json").unlink(missing_ok=True)


# --- JSON Lines, and other text -----------------------------------------------------------------


@in_a_folder
@given(content=lines({"problem": "1+1=?", "solution": "\\boxed{2}", "answer": "#### 2"}))
def test_training_problems(here: Path, content: bytes) -> None:
    (here / "rows.jsonl").write_bytes(content)
    answered(lambda: open_rows(str(here / "rows.jsonl")))


@in_a_folder
@given(
    name=st.sampled_from(sorted(SETS)),
    content=lines({"id": 1, "problem": "1+1=?", "answer": "2"}),
    entries=texts
    | spoiled({"toy": {"file": "f", "items": 1, "hash": "h", "dataset": "d", "rows": ["r"]}}).map(
        lambda value: json.dumps(value).encode()
    ),
)
def test_problem_sets(here: Path, name: str, content: bytes, entries: bytes) -> None:
    (here / SETS[name].file).write_bytes(content)
    (here / store.MANIFEST).write_bytes(entries)
    found = answered(lambda: store.read(here, SETS[name]))
    assert found is None or all(isinstance(one["answer"], str) for one in found.items)
    answered(lambda: store.manifest(here))
    (here / SETS[name].file).unlink()


@in_a_folder
@given(
    content=lines({"schema": 1, "id": "t/0/0", "ledger": {"__float__": "nan"}}),
)
def test_lines_that_are_no_trace(here: Path, content: bytes) -> None:
    file = here / "trace-rank0.jsonl"
    file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a torn last line
        answered(lambda: read(here))
        answered(lambda: TraceWriter(file).__enter__().__exit__(None, None, None))


@in_a_folder
@given(name=st.sampled_from(sorted(PLACES)), content=texts | st.text().map(str.encode))
def test_prompts(tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("prompts")  # prompts are read once
    (folder / f"{name}.txt").write_bytes(content)
    method = "tpo" if name.startswith("tpo") else name.partition("_")[0]
    method = {"tot": "tree_of_thought"}.get(method, method)
    answered(lambda: configure(method, {"prompts": str(folder)}))


def test_spoiled_values_are_of_every_kind() -> None:
    """The fuzz reaches the refusals and the readings: neither everything passes nor nothing."""
    seen = set()

    @settings(max_examples=200, database=None)
    @given(spoiled(MANIFEST))
    def look(value: Any) -> None:
        assume(isinstance(value, dict))
        seen.add(value.keys() == MANIFEST.keys())

    look()
    assert seen == {True, False}
