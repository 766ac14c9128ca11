"""What stands in for a sweep's worker process where the work itself does not matter."""

from __future__ import annotations

import os
import time
from typing import Any

from nabla_eval.runs.workers import Event


def work(line: Any, log: Any) -> None:
    """Do what each job's options say, until the line is closed."""
    while True:
        try:
            place, job = line.recv()
        except EOFError:
            return
        line.send(Event("started", place))
        if "die" in job.evaluation.model_args:
            os._exit(job.evaluation.model_args["die"])
        time.sleep(job.evaluation.model_args.get("sleep", 0))
        line.send(Event("done", place, manifest={**job.manifest, "device": str(os.getpid())}))
