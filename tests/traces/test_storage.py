"""What a trace file survives: a second writer, a full disk, power that fails."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock
from trace_lines import line

from nabla_eval.errors import DataError
from nabla_eval.traces import TraceWriter, lock, read, write


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    path = tmp_path / "trace-rank0.jsonl"
    program = (
        "import os, signal, sys\n"
        "from nabla_eval.traces import TraceWriter\n"
        "writer = TraceWriter(sys.argv[1]).__enter__()\n"
        "print('writing', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None and other.stdout.readline() == "writing\n"
        message = "Another process is writing to .* Wait until it has ended"
        with pytest.raises(DataError, match=message), TraceWriter(path):
            pass
        assert f"writing to {tmp_path}: waiting" in caplog.text
        # One that is ending is waited for: the same command may follow a stopped one at once.
        monkeypatch.setattr(lock, "PATIENCE", 60)
        threading.Timer(0.5, other.kill).start()
        with TraceWriter(path) as writer:
            writer.write(line(0))
    assert len(read(path)) == 1


def test_a_line_that_does_not_fit_is_taken_back(tmp_path, monkeypatch):
    """As a full disk does it: some bytes of the line are written, then none."""
    path = tmp_path / "trace-rank0.jsonl"
    with TraceWriter(path) as writer:
        writer.write(line(0))
        whole = path.read_bytes()
        file = writer._file

        class Full:
            def __getattr__(self, name):
                return getattr(file, name)

            def write(self, data):
                return file.write(data[:10])

        monkeypatch.setattr(writer, "_file", Full())
        with pytest.raises(DataError, match="Free some space"):
            writer.write(line(1))
        monkeypatch.setattr(writer, "_file", file)
        assert path.read_bytes() == whole
    with TraceWriter(path) as writer:
        writer.write(line(1))
    assert [record["id"] for record in read(path)] == ["task/0/0", "task/1/0"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, which Linux has")
def test_a_full_device_is_a_clear_error(tmp_path):
    path = tmp_path / "trace-rank0.jsonl"
    path.symlink_to("/dev/full")
    message = r"trace-rank0\.jsonl: No space left on device\..* Free some space"
    with pytest.raises(DataError, match=message):  # noqa: SIM117
        with TraceWriter(path) as writer:
            writer.write(line(0))


def test_lines_reach_the_disk_at_an_interval_and_at_the_end(tmp_path, monkeypatch):
    synced: list[int] = []
    now = [0.0]
    monkeypatch.setattr(write.os, "fsync", synced.append)
    monkeypatch.setattr(write.time, "monotonic", lambda: now[0])
    with TraceWriter(tmp_path / "trace-rank0.jsonl") as writer:
        for index in range(10):
            now[0] += 1.0
            writer.write(line(index))
        assert len(synced) == 2
    assert len(synced) == 3


def test_a_file_system_without_locks_is_warned_about(tmp_path, monkeypatch, caplog):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with caplog.at_level(logging.WARNING), TraceWriter(tmp_path / "trace-rank0.jsonl") as writer:
        writer.write(line(0))
    assert "cannot be locked" in caplog.text and len(read(tmp_path)) == 1
