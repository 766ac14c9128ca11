"""Signals at any moment: a stopped block says what is kept, ends in time, and children with it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr

import psutil
import pytest

from nabla_eval.signals import Terminated, status, stoppable, told

pytestmark = pytest.mark.usefixtures("usual_signals")


def hit(number):
    os.kill(os.getpid(), number)
    time.sleep(10)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (signal.SIGTERM, Terminated),
        (signal.SIGHUP, Terminated),
        (signal.SIGINT, KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("then", [None, OSError("no terminal")])
def test_a_signal_ends_a_block_and_says_what_is_kept(number, kind, then, capsys):
    """What fails while a stop is under way, as a live table whose terminal is gone, is the stop."""
    before = signal.getsignal(number)
    with pytest.raises(kind) as caught, stoppable(lambda: "3 of 4 are there."):
        try:
            hit(number)
        finally:
            if then is not None and number != signal.SIGINT:
                raise then
    assert told(caught.value) and not isinstance(caught.value, Exception)
    assert kind is KeyboardInterrupt or caught.value.code == 128 + number
    assert capsys.readouterr().err == "\nStopped: 3 of 4 are there.\n"
    assert signal.getsignal(number) is before


def test_an_outer_block_speaks_where_stderr_went_elsewhere(capsys):
    log = io.StringIO()
    with (
        pytest.raises(Terminated),
        stoppable(lambda: "outside."),
        stoppable(lambda: "in the middle."),
        redirect_stderr(log),
        stoppable(lambda: "inside."),
    ):
        hit(signal.SIGTERM)
    assert log.getvalue() == "\nStopped: inside.\n"
    assert capsys.readouterr().err == "\nStopped: in the middle.\n"


def test_a_block_speaks_to_the_stderr_that_it_began_with(tmp_path, capfd):
    """A signal may fall where a block within was about to give stderr back."""
    screen = sys.stderr
    with (
        pytest.raises(Terminated),
        stoppable(lambda: "outside."),
        open(tmp_path / "log", "w") as log,
    ):
        sys.stderr = log
        os.dup2(log.fileno(), 2)
        with stoppable(lambda: "inside."):
            hit(signal.SIGTERM)
    assert sys.stderr is screen
    os.write(2, b"Given back.")
    assert (tmp_path / "log").read_text() == "\nStopped: inside.\n"
    assert capfd.readouterr().err == "\nStopped: outside.\nGiven back."


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_python_drops_ends_the_block_all_the_same(number, capsys):
    """What is raised in a finaliser or by a collection's callback is printed and forgotten."""

    class Finalised:
        def __del__(self):
            hit(number)

    after = []
    with (
        pytest.raises((Terminated, KeyboardInterrupt)) as caught,
        stoppable(lambda: "outside.", interrupts=True),
    ):
        with stoppable(lambda: "inside."):
            Finalised()
        after.append("reached")
    assert status(caught.value) == 128 + number and not after
    assert capsys.readouterr().err.endswith("\nStopped: inside.\n")


def test_what_the_program_ignores_or_handles_and_other_errors_stay_as_they_are(capsys):
    heard: list[int] = []
    own = {signal.SIGHUP: signal.SIG_IGN, signal.SIGTERM: lambda number, _: heard.append(number)}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    try:
        with pytest.raises(ValueError), stoppable(lambda: "never said"):
            for number in own:
                os.kill(os.getpid(), number)
            raise ValueError
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert heard == [signal.SIGTERM] and capsys.readouterr().err == ""


def test_threads_do_without_signals():
    def work():
        with stoppable(lambda: "never said"):
            return True

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result()


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


SWALLOW = """
with stoppable(lambda: "one of two."):
    try:
        print("ready", flush=True)
        time.sleep(60)
    except:
        print("cleaning", flush=True)
        time.sleep(60)
"""
FULL_PIPE = """
os.set_blocking(2, False)
try:
    while os.write(2, b"x"):
        pass
except BlockingIOError:
    os.set_blocking(2, True)
"""
SOON = "signals.PATIENCE = 0.5\n"
LONG = CLEANUP.format(seconds=60)
SAID = "\nStopped: one of two.\n"


@pytest.mark.parametrize(
    ("code", "numbers", "status", "said", "printed"),
    [
        # `timeout` and terminals that close signal twice in a row: the clean-up goes on.
        (CLEANUP.format(seconds=0.5), (signal.SIGTERM, signal.SIGHUP), 143, SAID, "clean\n"),
        # A second signal ends a clean-up that hangs, and without one it has its time.
        ("signals.TWICE = 0\n" + LONG, (signal.SIGTERM, signal.SIGTERM), 143, SAID, ""),
        ("signals.TWICE = 0\n" + LONG, (signal.SIGTERM, signal.SIGHUP), 143, SAID, ""),
        (SOON + LONG, (signal.SIGTERM,), 143, SAID, ""),
        (SOON + SWALLOW, (signal.SIGTERM,), 143, SAID, ""),  # by a library
        ("os.close(2)\n" + CLEANUP.format(seconds=0), (signal.SIGHUP,), 129, "", "clean\n"),
        (FULL_PIPE + SOON + CLEANUP.format(seconds=0), (signal.SIGTERM,), 143, None, "clean\n"),
        (FULL_PIPE + SOON + SWALLOW, (signal.SIGTERM,), 143, None, ""),  # and nobody reads
    ],
)
def test_a_clean_up_has_its_time_and_no_more(code, numbers, status, said, printed):
    with program(code) as process:
        assert process.stdout is not None and process.stderr is not None
        process.send_signal(numbers[0])
        assert process.stdout.readline() == "cleaning\n"
        for number in numbers[1:]:
            process.send_signal(number)
        assert process.wait(60) == status
        assert said is None or process.stderr.read() == said
        assert process.stdout.read() == printed


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
    with family(f"{SAY}time.sleep(0.7); {LATE}") as (parent, child):
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
        time.sleep(0.2)
        assert child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        parent.send_signal(signal.SIGTERM)
        psutil.wait_procs([child], timeout=5)
        assert not child.is_running()
