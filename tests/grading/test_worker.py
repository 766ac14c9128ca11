"""The worker processes: cheap to import, killed at the deadline, restarted, never left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from nabla_eval.errors import DependencyError
from nabla_eval.grading import GradingError, close, equal, grade, worker
from nabla_eval.grading.worker import GradingPool, GradingWorker

BOMB = "9^{9^{9^{9}}}"


@pytest.fixture
def workers() -> Iterator[GradingPool]:
    pool_of_one = GradingPool(size=1)
    yield pool_of_one
    pool_of_one.close()


@pytest.fixture
def one() -> Iterator[GradingWorker]:
    started = GradingWorker()
    yield started
    started.kill()


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _gone(pid: int, seconds: float) -> bool:
    """Return whether the process ends within ``seconds``; a zombie has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_import_and_simple_answers_need_no_computer_algebra() -> None:
    heavy = "{m for m in ('torch', 'sympy', 'math_verify', 'numpy') if m in sys.modules}"
    code = (
        "import sys; from nabla_eval.grading import equal, grade, worker, cluster\n"
        "assert equal('025', '25') and equal('1/2', '0.5') and not equal('(1,2)', '(2,1)')\n"
        "assert cluster(['7', '7.0', '8']) == [0, 0, 1]\n"
        f"assert not {heavy}, {heavy}\n"
        "assert not sys.modules['nabla_eval.grading.equal']._pool._idle\n"
        "assert equal('x+1', '1+x')\n"
        f"assert not {heavy}, {heavy}"
    )
    _run(code)


def test_a_worker_is_reused_and_replaced_when_it_is_dead_or_old(
    workers: GradingPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workers.ask("x+1", "1+x", 60).equal
    first = workers._idle[0].process
    assert not workers.ask("x+1", "x+2", 60).equal
    assert workers._idle[0].process is first, "reused"
    first.kill()
    first.wait()
    assert workers.ask("x+1", "1+x", 60).equal, "killed from outside"
    second = workers._idle[0].process
    assert workers.ask("7", BOMB, 0.5).timed_out
    assert second.poll() == -signal.SIGPROF
    assert workers.ask("x+1", "1+x", 60).equal, "killed at its deadline"
    third = workers._idle[0].process
    monkeypatch.setattr(worker, "MAX_REQUESTS", 2)
    assert workers.ask("x+1", "1+x", 60).equal
    assert workers._idle == [] and third.poll() is not None, "after many requests"
    assert workers.ask("x+1", "1+x", 60).equal
    fourth = workers._idle[0].process
    workers.close()
    assert fourth.poll() is not None


def test_a_worker_that_gets_no_processor_is_killed(
    one: GradingWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert one.ask("x+1", "1+x", 60).equal
    os.kill(one.process.pid, signal.SIGSTOP)
    monkeypatch.setattr(worker, "PATIENCE", 1.0)
    assert one.ask("x+1", "1+x", 0.5).timed_out
    assert one.process.poll() == -signal.SIGKILL


def test_a_worker_that_dies_while_it_works_is_reported(one: GradingWorker) -> None:
    assert one.ask("x+1", "1+x", 60).equal
    timer = threading.Timer(0.5, one.process.kill)
    timer.start()
    verdict = one.ask("7", BOMB, 30)
    assert not verdict.equal
    assert verdict.error == "died"


def test_memory_is_limited_and_a_worker_that_runs_out_of_it_is_replaced(
    workers: GradingPool,
) -> None:
    assert workers.ask("x+1", "1+x", 60).equal
    pid = workers._idle[0].process.pid
    limit = worker.MEGABYTES * 2**20
    assert resource.prlimit(pid, resource.RLIMIT_AS) == (limit, limit)
    in_use = psutil.Process(pid).memory_info().vms
    resource.prlimit(pid, resource.RLIMIT_AS, (in_use + 2**22, limit))
    verdict = workers.ask("7", r"\sum_{k=1}^{3000} k!", 120)
    assert not verdict.equal
    assert verdict.error in {"MemoryError", "died"}
    assert workers.ask("x+1", "1+x", 60).equal
    workers.close()


def test_timeouts_are_reported_and_a_longer_deadline_tries_again() -> None:
    result = grade("7", rf"\boxed{{{BOMB}}}", timeout=0.3)
    assert (result.equal, result.timed_out, result.reason) == (False, True, "grader_timeout")
    start, before = time.process_time(), os.times().children_user
    assert grade("7", rf"\boxed{{{BOMB}}}", timeout=0.3).timed_out
    assert time.process_time() - start < 0.2, "a known timeout costs nothing"
    assert os.times().children_user == before, "and no worker"
    before = os.times().children_user
    assert grade("7", rf"\boxed{{{BOMB}}}", timeout=1.0).timed_out
    assert os.times().children_user - before > 0.9


def test_threads_share_the_workers_which_may_be_closed_at_any_time() -> None:
    close()
    close()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: equal(f"t+{n}", f"{n % 20}+t"), range(40)))
    assert answers == [n < 20 for n in range(40)]


def test_forked_children_use_their_own_workers_and_none_outlives_its_caller() -> None:
    code = (
        "import os, sys; from nabla_eval.grading import equal\n"
        "assert equal('x+1', '1+x')\n"
        "pool = sys.modules['nabla_eval.grading.equal']._pool\n"
        "def pids(): print(*[worker.process.pid for worker in pool._idle], flush=True)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    assert equal('y+1', '1+y') and not equal('y+1', '2+y')\n"
        "    pids()\n"
        "    raise SystemExit(0)\n"
        "assert equal('z+1', '1+z')\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert equal('u+1', '1+u') and not equal('u+1', '2+u')\n"
        "pids()"
    )
    pids = [int(pid) for pid in _run(code).split()]
    assert len(set(pids)) == 2 and all(_gone(pid, 60) for pid in pids)


def test_nothing_is_left_when_the_caller_is_killed_in_the_middle() -> None:
    code = (
        "from nabla_eval.grading.worker import GradingWorker as Worker\n"
        "w = Worker(); assert w.ask('x+1', '1+x', 60).equal\n"
        "print(w.process.pid, flush=True)\n"
        f"w.ask('7', {BOMB!r}, 600)"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    worker = int(caller.stdout.readline())
    time.sleep(0.5)
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    caller.stdout.close()
    assert _gone(worker, 5)


def test_nothing_is_left_when_the_caller_is_stopped_in_the_middle() -> None:
    code = (
        "from nabla_eval.grading import grade_batch\n"
        "from nabla_eval.grading import worker\n"
        "from nabla_eval.signals import stoppable\n"
        "with stoppable(lambda: 'nothing is kept.'):\n"
        f"    grade_batch([('7', {BOMB!r})] * 9, extracted=True, timeout=600)\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    with caller:
        found: list[psutil.Process] = []
        while sum(child.cpu_times().user > 2 for child in found) < 2:
            time.sleep(0.2)
            found = psutil.Process(caller.pid).children()
        caller.terminate()
        began = time.monotonic()
        assert caller.wait() == 143 and time.monotonic() - began < 8
        assert caller.stderr is not None and "Stopped: nothing is kept." in caller.stderr.read()
    assert all(_gone(child.pid, 5) for child in found)


def test_a_worker_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_BOOTSTRAP", "raise SystemExit(3)")
    with pytest.raises(GradingError, match="did not start"):
        GradingPool().ask("x+1", "1+x", 5)
    broken = (
        "import sys; sys.path[:] = sys.argv[2:]; sys.modules['math_verify'] = None\n"
        "from nabla_eval.grading.worker import main; main(*map(int, sys.argv[1].split(',')))"
    )
    monkeypatch.setattr(worker, "_BOOTSTRAP", broken)
    with pytest.raises(DependencyError, match=r"needs math-verify.* Try: pip install"):
        GradingPool().ask("x+1", "1+x", 5)
