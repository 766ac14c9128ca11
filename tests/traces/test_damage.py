"""Whatever happens to a trace file: what is read from it was written, or it is refused."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable

import pytest
from trace_lines import line

from nabla_eval.errors import DataError
from nabla_eval.traces import read
from nabla_eval.traces.schema import dumps, seal

FILES = 10_000
RECORDS = {record["id"]: record for record in map(line, range(4))}
KNOWN = {dumps(record) for record in RECORDS.values()}
WHOLE = b"".join(map(seal, RECORDS.values()))


def flip(data, draw):
    """Bits of some bytes, as a bad disk or memory does."""
    for _ in range(draw.randint(1, 4)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def digits(data, draw):
    """A digit that becomes another: still valid JSON."""
    places = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    for place in draw.sample(places, draw.randint(1, 3)):
        data[place] = draw.choice(b"0123456789")


def cut(data, draw):
    """The end is missing."""
    del data[draw.randrange(len(data)) :]


def hole(data, draw):
    """A stretch is missing, or is zeros as after a crash of the machine."""
    start = draw.randrange(len(data))
    end = min(len(data), start + draw.randint(1, 3000))
    data[start:end] = bytes(end - start) if draw.random() < 0.5 else b""


def insert(data, draw):
    """Foreign bytes, line ends among them."""
    place = draw.randrange(len(data) + 1)
    data[place:place] = bytes(
        draw.choice(b'\n\r\0"{}[],:0e\xff') for _ in range(draw.randint(1, 9))
    )


def repeat(data, draw):
    """A stretch comes twice, as when two writers share a file."""
    start = draw.randrange(len(data))
    data[start:start] = data[start : start + draw.randint(1, 3000)]


def shuffle(data, draw):
    """Whole lines change places, are lost or come twice: no line is wrong."""
    lines = bytes(data).splitlines(keepends=True)
    data[:] = b"".join(draw.choices(lines, k=draw.randint(1, 6)))


def number_word(data, draw):
    """A number becomes something that other JSON writers produce."""
    text = bytes(data).replace(b"0.25", draw.choice([b"NaN", b"null", b"true", b'"0.25"']), 1)
    data[:] = text


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [
    flip, digits, cut, hole, insert, repeat, shuffle, number_word
]  # fmt: skip


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_read_right_or_refused(tmp_path):
    draw = random.Random(0)
    path = tmp_path / "trace-rank0.jsonl"
    outcomes = {"read": 0, "refused": 0}
    for _ in range(FILES):
        data = bytearray(WHOLE)
        for _ in range(draw.randint(1, 2)):
            if data:
                draw.choice(DAMAGES)(data, draw)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torn last lines
                found = read(path)
        except DataError as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        assert {dumps(record) for record in found} <= KNOWN
    assert min(outcomes.values()) > FILES // 10


def test_an_older_line_without_a_checksum_is_read(tmp_path):
    path = tmp_path / "trace-rank0.jsonl"
    old = {**RECORDS["task/0/0"], "schema": 1}
    path.write_bytes(dumps(old).encode() + b"\n" + seal(RECORDS["task/1/0"]))
    assert [record["id"] for record in read(path)] == ["task/0/0", "task/1/0"]


def test_a_changed_digit_is_found(tmp_path):
    path = tmp_path / "trace-rank0.jsonl"
    path.write_bytes(WHOLE.replace(b'"new_reward":0.25', b'"new_reward":0.35', 1))
    with pytest.raises(DataError, match="its checksum is wrong"):
        read(path)
