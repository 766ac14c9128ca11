"""An index saves reading and never changes what is read: entries are the same without it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from trace_lines import CONFIG, MODELS, OUTCOME, line, problem

from nabla_eval.errors import DataError
from nabla_eval.options import fingerprint
from nabla_eval.outcome import Draft, Step
from nabla_eval.traces import TraceWriter, index, read, restore, unlike
from nabla_eval.traces.index import entries, path_of
from nabla_eval.traces.schema import dumps, seal

STEP = Step(0, None, "critique", (1, 2), "too long", "eos", note="no verdict")
OTHER = replace(OUTCOME, drafts=(Draft(0, (1,), "\ud800\x1b", "length", float("inf")),))
RECORDS = [
    line(0),
    line(1, replace(OUTCOME, steps=(STEP,), candidates=())),
    line(2, OTHER),
    line(3),
]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "trace-rank0.jsonl"
    with TraceWriter(path) as writer:
        for record in RECORDS:
            writer.write(record)
    return path


def seen(path: Path) -> list[str]:
    """What there is to read of a shard, warnings and refusals included."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = [repr({**entry, "place": entry["place"]}) for entry in entries(path)]
        except DataError as error:
            found = [str(error)]
    return found + [str(warning.message) for warning in caught]


def seen_without(path: Path) -> list[str]:
    content = path_of(path).read_bytes() if path_of(path).exists() else None
    path_of(path).unlink(missing_ok=True)
    found = seen(path)
    if content is not None:
        path_of(path).write_bytes(content)
    return found


def test_a_whole_index_is_all_that_is_read(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = seen_without(shard)
    monkeypatch.setattr(index, "scan", lambda *_, **__: iter(()))
    assert seen(shard) == without and len(without) == len(RECORDS)


def test_an_entry_tells_a_resumed_run_what_the_record_does(shard: Path) -> None:
    for entry, record in zip(entries(shard), read(shard), strict=True):
        assert entry["stats"] == restore(record).stats()
        assert entry["outcome"]["text"] == record["outcome"]["text"]
        asked = problem(int(entry["id"].split("/")[1]))
        assert unlike(entry, asked, "nabla", CONFIG, MODELS) == []
        assert unlike(entry, problem(9), "nabla", CONFIG, MODELS) != []


def swap_lines(data: bytes) -> bytes:
    first, second, *rest = data.splitlines(keepends=True)
    return b"".join([second, first, *rest])


def other_run(data: bytes) -> bytes:
    return b"".join(seal(replace(record, seconds=0.7)) for record in RECORDS)


SHARDS: dict[str, Callable[[bytes], bytes]] = {
    "a line is gone": lambda data: b"".join(data.splitlines(keepends=True)[1:]),
    "lines change places": swap_lines,
    "another run of the same length": other_run,
    "torn": lambda data: data[:-30],
    "its last line end is gone": lambda data: data[:-1],
    "shorter by a line": lambda data: b"".join(data.splitlines(keepends=True)[:-1]),
    "longer": lambda data: data + seal(line(7)),
    "empty": lambda data: b"",
    "older lines first": lambda data: dumps({**line(8), "schema": 1}).encode() + b"\n" + data,
    "older lines": lambda data: dumps({**line(8), "schema": 1}).encode() + b"\n",
}


@pytest.mark.parametrize("change", SHARDS.values(), ids=list(SHARDS))
def test_a_stale_index_is_not_trusted_and_the_next_writer_mends_it(
    shard: Path, change: Callable[[bytes], bytes]
) -> None:
    whole = seen_without(shard)
    shard.write_bytes(change(shard.read_bytes()))
    assert seen(shard) == (without := seen_without(shard)) != whole
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a torn line that is removed
        with TraceWriter(shard) as writer:
            writer.write(line(9))
    assert seen(shard) == seen_without(shard)
    assert len(seen(shard)) == len([text for text in without if "torn" not in text]) + 1


def test_damage_to_an_index_costs_nothing_but_time(shard: Path) -> None:
    draw, without = random.Random(0), seen_without(shard)
    whole = path_of(shard).read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        at = draw.randrange(len(data))
        length = draw.choice((1, 1, 50, len(data)))
        match draw.randrange(3):
            case 0:
                data[at : at + length] = bytes(draw.randrange(256) for _ in data[at : at + length])
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[draw.randrange(len(data)) :][:length]
        path_of(shard).write_bytes(data)
        assert seen(shard) == without
    path_of(shard).write_bytes(whole.replace(b'"index":1', b'"index":2'))
    assert seen(shard) == without
    path_of(shard).unlink()
    path_of(shard).mkdir()
    assert seen(shard) == without


@pytest.mark.parametrize("lines", [0, 1, 3])
@pytest.mark.parametrize("lost", [0, 30])
def test_a_writer_killed_before_the_index_was_written_loses_nothing(
    shard: Path, lines: int, lost: int
) -> None:
    whole = path_of(shard).read_bytes()
    known = b"".join(whole.splitlines(keepends=True)[: lines + 1])
    path_of(shard).write_bytes(known[: len(known) - lost] if lines or lost else b"")
    with TraceWriter(shard):
        pass
    assert path_of(shard).read_bytes() == whole


def test_an_index_from_before_an_option_is_one_of_a_run_without_it(shard: Path) -> None:
    config = {name: value for name, value in line().config.items() if name != "schedule"}
    older = replace(line(), config=config, config_hash=fingerprint(config))
    shard.unlink()
    with TraceWriter(shard) as writer:
        writer.write(older)
    (entry,) = entries(shard)
    assert unlike(entry, problem(), "nabla", CONFIG, MODELS) == []
