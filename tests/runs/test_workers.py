"""The processes of a sweep: every job ends once, also when processes die or the caller leaves."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

import pytest

from nabla_eval.errors import DataError
from nabla_eval.harness.arguments import read
from nabla_eval.runs import workers
from nabla_eval.runs.command import Evaluation
from nabla_eval.runs.evaluate import Evaluator
from nabla_eval.runs.folder import claim
from nabla_eval.runs.workers import Event, Job, run_in_processes
from nabla_eval.traces import lock
from nabla_eval.traces.manifest import read_manifest


def fake_work(line, log):
    """Do what each job's options say, in a worker process, until the line is closed."""
    while True:
        try:
            place, job = line.recv()
        except EOFError:
            return
        line.send(Event("started", place))
        if "die" in job.evaluation.model_args:
            os._exit(job.evaluation.model_args["die"])
        time.sleep(job.evaluation.model_args.get("sleep", 0))
        while not os.path.exists(job.evaluation.model_args.get("after", os.curdir)):
            time.sleep(0.05)
        shown = os.environ.get(job.evaluation.model_args.get("show", ""), str(os.getpid()))
        line.send(Event("done", place, manifest={**job.manifest, "device": shown}))


def jobs(tmp_path, *options):
    found = []
    for place, values in enumerate(options):
        evaluation = Evaluation(("t",), values, read({}), {"device": "cpu"})
        job = Job(tmp_path / str(place), evaluation.manifest("c", ""), evaluation)
        claim(job.folder, job.manifest)
        found.append(job)
    return found


def run(work, tmp_path, report, **settings):
    run_in_processes(work, 2, tmp_path / "log.txt", report, fake_work, **settings)


def test_a_cell_is_not_run_into_what_another_run_answered_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_: "evaluated")
    (job,) = jobs(tmp_path, {})
    other = {**job.manifest, "limit": 3}
    claim(job.folder, other)
    assert job.run(Evaluator()) == "evaluated" and read_manifest(job.folder)["limit"] is None
    claim(job.folder, other)
    (job.folder / "trace-rank0.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"holds another run \(limit: 3 there, null here"):
        job.run(Evaluator())


def test_each_process_sees_its_own_gpus_and_leaves_them_to_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    died, show = tmp_path / "died", {"show": "CUDA_VISIBLE_DEVICES"}
    seen = {}

    def report(event):
        if event.kind == "failed":
            died.touch()
        elif event.manifest is not None:
            seen[event.job] = event.manifest["device"]

    work = jobs(tmp_path, {**show, "after": str(died)}, {"die": 3}, show)
    run(work, tmp_path, report, devices=["4,5", "7"])
    assert seen == {0: "4,5", 2: "7"} and os.environ["CUDA_VISIBLE_DEVICES"] == "4,5,7"


def test_a_process_that_dies_costs_the_job_it_was_at(tmp_path):
    work = jobs(tmp_path, {}, {"die": 3}, {}, {"die": 4}, {}, {})
    events: list[Event] = []
    run(work, tmp_path, events.append)
    ends = {event.job: event for event in events if event.kind in ("done", "failed")}
    assert len(ends) == sum(event.kind in ("done", "failed") for event in events) == len(work)
    kinds = [ends[place].kind for place in range(6)]
    assert kinds == ["done", "failed", "done", "failed", "done", "done"]
    assert ends[1].error == "Its process ended with exit code 3."
    manifest = read_manifest(work[3].folder)
    assert manifest is not None and manifest["status"] == "failed"
    assert "exit code 4" in str(manifest["error"])
    made = {event.manifest["device"] for event in ends.values() if event.manifest is not None}
    assert len(made) <= 4, "processes are kept: two at first, one for each that died"
    assert multiprocessing.active_children() == []


def test_leaving_early_ends_the_processes_at_once(tmp_path):
    began = time.monotonic()

    def report(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(jobs(tmp_path, {"sleep": 60}, {"sleep": 60}), tmp_path, report)
    assert time.monotonic() - began < 30
    assert multiprocessing.active_children() == []


def test_a_worker_that_nobody_hears_has_not_failed(tmp_path, monkeypatch):
    """Its parent is gone: the run goes on with the next one."""
    (job,) = jobs(tmp_path, {})
    ours, theirs = multiprocessing.Pipe()
    ours.send((0, job))
    heard = threading.Event()

    def die():
        ours.recv()
        ours.close()
        heard.set()

    def evaluate(self, folder, evaluation, manifest, progress):
        heard.wait()
        progress(1, 2)

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    threading.Thread(target=die).start()
    with pytest.raises(SystemExit):
        workers.work(theirs, tmp_path / "log.txt")
    manifest = read_manifest(job.folder)
    assert manifest is not None and (manifest["status"], manifest["error"]) == ("running", None)


def test_who_took_a_folder_meanwhile_keeps_its_run_json(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    monkeypatch.setattr("lm_eval._cli.run.Run._execute", lambda _: 1 / 0)
    (job, other) = jobs(tmp_path, {"die": 3}, {})
    with lock.sole_writer(job.folder):
        before = read_manifest(job.folder)
        with pytest.raises(DataError, match="Another process is writing"):
            job.run(Evaluator())
        events: list[Event] = []
        run([job, other], tmp_path, events.append)
        assert sorted(e.job for e in events if e.kind == "failed") == [0]
        assert read_manifest(job.folder) == before
    with pytest.raises(ZeroDivisionError):
        job.run(Evaluator())
    now = read_manifest(job.folder)
    assert now is not None and now["status"] == "failed"
