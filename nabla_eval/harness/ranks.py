"""Data parallel: one process's place among those that were launched together (DESIGN 4).

Documents are dealt out by lm-eval itself, which asks the model for `rank` and `world_size`, and
gathers through `all_gather`, `gather_object` and `barrier`. Every draw is keyed by its document, so
which rank answers a document does not matter.
"""

from __future__ import annotations

import atexit
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import parse_flag_from_env
from lm_eval.models.huggingface import HFLM

from nabla_eval.harness.arguments import process_number
from nabla_eval.terminal import LOGGER
from nabla_eval.traces import TraceWriter, trace_path

_PATIENT = InitProcessGroupKwargs(timeout=timedelta(weeks=52))  # as HFLM: ranks wait for each other


class RankedLM(HFLM):
    """`HFLM` that shares its work between processes wherever several were launched.

    HFLM 0.4.13 takes its rank only where one machine has several GPUs, and counts it within the
    machine. `join` takes it from accelerate in every case: processes on CPU (gloo), one GPU on each
    of several machines, several on each (nccl). Tensors that lm-eval gathers are on `device`, which
    HFLM sets to the rank's own.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        process_number("RANK", 0)  # accelerate reads it, too, and says less
        if process_number("WORLD_SIZE", 1) > 1 and on_cpu() and not options.get("tp_plan"):
            # accelerate forms groups without GPUs only where it is told to, and the first to ask
            # decides for all who ask later, as HFLM does.
            Accelerator(cpu=True, kwargs_handlers=[_PATIENT])
            # HFLM would name a rank's device "cpu:0", which transformers 4 cannot load onto.
            options.setdefault("device_map", "cpu")
        super().__init__(*args, **options)

    def join(self, trace_dir: Path | None) -> None:
        """Take this process's rank, and wait for the other ranks.

        Afterwards the ranks' shards in `trace_dir` end in whole lines and only grow, so that ranks
        may read each other's while they are written.
        """
        if not hasattr(self, "accelerator"):  # HFLM makes one, but not around a loaded model
            if process_number("WORLD_SIZE", 1) <= 1:
                return
            self.accelerator = Accelerator(kwargs_handlers=[_PATIENT])
        atexit.register(_part)
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        if trace_dir is not None:
            with TraceWriter(trace_path(trace_dir, self.rank)):
                pass
        self.barrier()

    def gather_object(self, obj: Any, dst: int = 0) -> Any:
        """Gather as lm-eval does; a metric that a rank lacks (no candidate) is an empty list."""
        gathered = super().gather_object(obj, dst)
        return gathered if gathered is None else _with_all_metrics(gathered)


def on_cpu() -> bool:
    """Return whether there is no GPU, or `accelerate launch --cpu` asked for the CPU."""
    accelerator = getattr(torch, "accelerator", torch.cuda)
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not accelerator.is_available()


def _part() -> None:
    """Leave the group before the interpreter ends.

    A gloo thread that outlives it takes the process down with an abort, after all work is done.
    nccl's groups are left alone: they would wait here for ranks that may have failed.
    """
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "gloo":
        torch.distributed.destroy_process_group()


def _with_all_metrics(gathered: list[Any]) -> list[Any]:
    """Ranks' metrics, {task: {(metric, filter): values}}, with the same metrics on every rank.

    lm-eval's table shows the metrics that rank 0 has; one that it lacks is warned about.
    """
    for task in {name for rank in gathered if isinstance(rank, dict) for name in rank}:
        parts = [rank[task] for rank in gathered if isinstance(rank.get(task), dict)]
        for metric in {name for part in parts for name in part}:
            if metric not in parts[0]:
                LOGGER.warning(
                    "The table lacks %s of %s: lm-eval shows what rank 0 has, and the %d documents "
                    "that have it went to other ranks. The traces hold it.",
                    metric[0], task, sum(len(part.get(metric, ())) for part in parts),
                )  # fmt: skip
            for part in parts:
                part.setdefault(metric, [])
    return gathered
