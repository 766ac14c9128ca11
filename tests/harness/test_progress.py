"""Progress of a run: a bar on terminals, lines in log files, or a caller's own."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stderr

from nabla_eval.harness.progress import Progress


def test_heartbeats_come_without_answers_and_estimate_from_fresh_ones():
    stream = io.StringIO()
    with redirect_stderr(stream), Progress(10, "nabla", every=0.02) as progress:
        time.sleep(0.2)
        progress.done = progress.kept = 4
        assert "left" not in progress.line()
        progress.done = 6
        progress._began = time.monotonic() - 3600
        assert progress.line().startswith("nabla: 6 of 10 in 60 min, about 2 h 0 min left, ")
    lines = stream.getvalue().splitlines()
    assert len(lines) >= 3 and lines[0].startswith("nabla: 0 of 10 in 0 s, ")
    assert lines[-1].startswith("nabla: 6 of 10") and "GiB of memory" in lines[-1]


def test_progress_is_a_bar_on_terminals_lines_elsewhere_and_nothing_where_quiet(
    monkeypatch, capsys
):
    def shown(quiet=False):
        with Progress(2, "nabla", None, quiet=quiet) as progress:
            progress.advance(stored=True)
            progress.advance()
        assert progress.done == 2
        return capsys.readouterr().err

    assert shown().startswith("nabla: 2 of 2 in 0 s")
    assert shown(quiet=True) == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert "2/2" in shown()
    calls: list[tuple[int, int]] = []
    with Progress(2, "nabla", lambda *counts: calls.append(counts), quiet=False) as progress:
        progress.advance()
    assert calls == [(1, 2)] and capsys.readouterr().err == ""
