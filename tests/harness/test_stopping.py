"""A stopped run says how to go on, and log files get lines in place of bars."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from contextlib import redirect_stderr

import pytest

from nabla_eval import signals
from nabla_eval.harness import progress as progress_module
from nabla_eval.harness.progress import Progress
from nabla_eval.signals import Terminated, stoppable, told

pytestmark = pytest.mark.usefixtures("usual_signals")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_block_with_the_status_that_shells_know(number, capsys):
    with pytest.raises(Terminated) as caught, stoppable(lambda: "3 of 4 are there."):
        os.kill(os.getpid(), number)
        time.sleep(10)
    assert caught.value.code == 128 + number and told(caught.value)
    assert capsys.readouterr().err == "\nStopped: 3 of 4 are there.\n"
    assert signal.getsignal(number) is signal.SIG_DFL


def test_what_fails_while_a_stop_is_under_way_is_the_stop(capsys):
    """Such as a live table that finds its terminal gone."""
    with pytest.raises(Terminated) as caught, stoppable(lambda: "all is there."):
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(10)
        finally:
            raise OSError("no terminal")
    assert caught.value.code == 129 and "all is there." in capsys.readouterr().err


def test_an_outer_block_speaks_where_stderr_went_elsewhere(capsys):
    log = io.StringIO()
    with (
        pytest.raises(Terminated),
        stoppable(lambda: "outside."),
        stoppable(lambda: "in the middle."),
        redirect_stderr(log),
        stoppable(lambda: "inside."),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert log.getvalue() == "\nStopped: inside.\n"
    assert capsys.readouterr().err == "\nStopped: in the middle.\n"


def test_nohup_stays_in_force():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable(lambda: "never said"):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_stays_what_it_is_and_is_told_of(capsys):
    # Started in the background, as by nohup, a process ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught, stoppable(lambda: "none is lost."):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told(caught.value) and "none is lost." in capsys.readouterr().err


def test_other_errors_are_not_called_a_stop(capsys):
    with pytest.raises(ValueError), stoppable(lambda: "never said"):
        raise ValueError
    assert capsys.readouterr().err == ""


def test_a_program_with_plans_of_its_own_keeps_them():
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with stoppable(lambda: "never said"):
            os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_threads_do_without_signals():
    errors: list[BaseException] = []

    def work():
        try:
            with stoppable(lambda: ""):
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


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


def test_scarce_memory_is_said_once(monkeypatch):
    monkeypatch.setattr(progress_module, "SCARCE", 1.0)
    stream = io.StringIO()
    with redirect_stderr(stream), Progress(1, "nabla", every=0.02):
        time.sleep(0.2)
    assert stream.getvalue().count("of this machine's memory are left") == 1


def test_progress_is_a_bar_on_terminals_lines_elsewhere_and_nothing_where_quiet(
    monkeypatch, capsys
):
    def shown(quiet=False):
        with Progress(2, "nabla", None, quiet=quiet) as progress:
            progress.advance()
            progress.resumed()
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


def test_terminated_is_no_ordinary_exception():
    """`except Exception` on the way, as lm-eval and the grader have it, must not swallow it."""
    assert not issubclass(signals.Terminated, Exception)
