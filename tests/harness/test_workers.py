"""The processes of a sweep: every job ends once, also when processes die or the caller leaves."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import fake_work
import pytest

from nabla_eval.harness.arguments import read
from nabla_eval.harness.evaluation import Settings
from nabla_eval.harness.folder import claim, manifest_of
from nabla_eval.harness.workers import Event, Job, Report, run_in_processes
from nabla_eval.traces.manifest import read_manifest


def jobs(tmp_path: Path, *options: dict[str, Any]) -> list[Job]:
    found = []
    for place, values in enumerate(options):
        job = Job(tmp_path / str(place), manifest_of(read({}), {}, ["t"], command="c"), values)
        claim(job.folder, job.manifest)
        found.append(job)
    return found


def run(work: list[Job], count: int, tmp_path: Path, report: Report) -> None:
    run_in_processes(work, Settings(), ["t"], count, tmp_path / "log.txt", report, fake_work.work)


def test_a_process_that_dies_costs_the_job_it_was_at(tmp_path: Path) -> None:
    work = jobs(tmp_path, {}, {"die": 3}, {}, {"die": 4}, {}, {})
    events: list[Event] = []
    run(work, 2, tmp_path, events.append)
    ends = {event.job: event for event in events if event.kind in ("done", "failed")}
    assert len(ends) == sum(event.kind in ("done", "failed") for event in events) == len(work)
    assert [ends[place].kind for place in range(6)] == [
        "done", "failed", "done", "failed", "done", "done",
    ]  # fmt: skip
    assert ends[1].error == "Its process ended with exit code 3."
    manifest = read_manifest(work[3].folder)
    assert manifest is not None and manifest["status"] == "failed"
    assert "exit code 4" in str(manifest["error"])
    assert multiprocessing.active_children() == []


def test_no_more_processes_than_jobs_and_each_is_kept_busy(tmp_path: Path) -> None:
    work = jobs(tmp_path, {"sleep": 0.2}, {}, {}, {})
    seen: set[str | None] = set()

    def report(event: Event) -> None:
        if event.manifest is not None:
            seen.add(event.manifest["device"])

    run(work, 2, tmp_path, report)
    assert 1 <= len(seen) <= 2


def test_leaving_early_ends_the_processes_at_once(tmp_path: Path) -> None:
    work = jobs(tmp_path, {"sleep": 60}, {"sleep": 60})
    began = time.monotonic()

    def report(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(work, 2, tmp_path, report)
    assert time.monotonic() - began < 30
    assert multiprocessing.active_children() == []
