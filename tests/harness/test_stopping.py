"""Signals at any moment: a stopped run says how to go on; children end; log files get lines."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, redirect_stderr

import psutil
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


def test_terminated_is_no_ordinary_exception():
    """`except Exception` on the way, as lm-eval and the grader have it, must not swallow it."""
    assert not issubclass(signals.Terminated, Exception)


# --- programs, and the processes that they start -------------------------------------------------

HEAD = """
import os, sys, time
from nabla_eval import signals
from nabla_eval.signals import shielded, stoppable
"""


@contextmanager
def program(code):
    """A Python program that has said "ready", ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("ready"), process.stderr and process.stderr.read()
            yield process
        finally:
            process.kill()


def ended(process):
    """Exit status, and what was said on stderr."""
    assert process.stderr is not None
    return process.wait(60), process.stderr.read()


CLEANUP = """
with stoppable(lambda: "one of two."):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep({seconds})
        print("clean", flush=True)
"""


def test_the_same_signal_twice_in_a_row_is_one():
    """As `timeout` and terminals that close send it: the clean-up goes on."""
    with program(CLEANUP.format(seconds=0.5)) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaning\n"
        process.send_signal(signal.SIGHUP)
        assert ended(process) == (143, "\nStopped: one of two.\n")
        assert process.stdout.read() == "clean\n"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP, None])
def test_no_clean_up_hangs(second):
    """A second signal ends it at once, and without one it has its time."""
    patience = 60 if second else 1
    code = f"signals.PATIENCE = {patience}\n{CLEANUP.format(seconds=60)}"
    with program(code) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "cleaning\n"
        if second:
            time.sleep(1.5)
            process.send_signal(second)
        assert ended(process) == (143, "\nStopped: one of two.\n")
        assert process.stdout.read() == ""


def test_a_stop_that_a_library_swallows_is_heard_all_the_same():
    code = """
signals.PATIENCE = 1
with stoppable(lambda: "one of two."):
    try:
        print("ready", flush=True)
        time.sleep(60)
    except:
        time.sleep(60)
"""
    with program(code) as process:
        process.send_signal(signal.SIGTERM)
        assert ended(process) == (143, "\nStopped: one of two.\n")


def test_a_terminal_that_is_gone_changes_no_status():
    with program("os.close(2)\n" + CLEANUP.format(seconds=0)) as process:
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 129


def test_a_pipe_that_nobody_reads_keeps_no_process():
    fill = """
signals.PATIENCE = 1
os.set_blocking(2, False)
try:
    while os.write(2, b"x"):
        pass
except BlockingIOError:
    os.set_blocking(2, True)
"""
    with program(fill + CLEANUP.format(seconds=0)) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


# A parent, and a child that calls `end_with`; what the child is at holds the interpreter's lock.
PARENT = """
import subprocess
theirs, ours = os.pipe()
code = "import os, sys, time; from nabla_eval.signals import end_with; " + {child!r}
with shielded():
    child = subprocess.Popen([sys.executable, "-c", code, str(theirs)], pass_fds=(theirs,))
os.close(theirs)
print("ready", child.pid, flush=True)
time.sleep(600)
"""
SAY = "os.write(2, b'at work'); "
LATE = "end_with(int(sys.argv[1])); os.write(2, b'late')"


@contextmanager
def family(child):
    with program(PARENT.format(child=child)) as parent:
        (pid,) = (one.pid for one in psutil.Process(parent.pid).children())
        yield parent, psutil.Process(pid)


def at_work(parent):
    assert parent.stderr is not None and parent.stderr.read(7) == "at work"


@pytest.mark.parametrize("work", ["7 ** 7 ** 9", "time.sleep(600)"])
def test_a_child_ends_with_its_parent_whatever_it_is_at(work):
    with family(f"end_with(int(sys.argv[1])); {SAY}{work}") as (parent, child):
        at_work(parent)
        parent.kill()
        psutil.wait_procs([child], timeout=5)
        assert not child.is_running()


def test_a_child_whose_parent_died_before_it_could_ask_ends_too():
    with family(f"{SAY}time.sleep(2); {LATE}") as (parent, child):
        at_work(parent)
        parent.kill()
        psutil.wait_procs([child], timeout=30)
        assert not child.is_running()
        assert parent.stderr is not None and parent.stderr.read() == ""


def test_children_hear_no_signal_that_goes_to_the_whole_group():
    code = f"end_with(int(sys.argv[1])); {SAY}time.sleep(600)"
    with family(code) as (parent, child):
        at_work(parent)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            child.send_signal(number)
        time.sleep(0.5)
        assert child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        parent.send_signal(signal.SIGTERM)
        psutil.wait_procs([child], timeout=5)
        assert not child.is_running()
