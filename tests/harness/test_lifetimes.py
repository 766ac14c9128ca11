"""Signals at any moment, twice, or to a whole group; children that outlive nobody."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

pytestmark = pytest.mark.usefixtures("usual_signals")

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
