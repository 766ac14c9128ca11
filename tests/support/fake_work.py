"""What stands in for a sweep's worker process where the work itself does not matter."""

from __future__ import annotations

import os
import time
from typing import Any

from nabla_eval.harness.workers import Event


def work(line: Any, settings: Any, tasks: Any, log: Any) -> None:
    """Do what each job's options say, until the line is closed."""
    while True:
        try:
            place, job = line.recv()
        except EOFError:
            return
        line.send(Event("started", place))
        if "die" in job.options:
            os._exit(job.options["die"])
        time.sleep(job.options.get("sleep", 0))
        line.send(Event("done", place, manifest={**job.manifest, "device": str(os.getpid())}))
