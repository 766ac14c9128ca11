"""lm-eval's W&B logger, for samples that do not have every metric of their task."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def accept_absent_metrics() -> None:
    """Have the W&B table of samples show NaN for the metrics that a sample does not have.

    A problem without candidates has no `rejection_rate`, and one that failed has no score. lm-eval
    0.4.13 asks every sample for every metric, and logs no sample at all where one is absent. Where
    its command line is not running, nothing is imported or changed.
    """
    module = sys.modules.get("lm_eval.loggers.wandb_logger")
    if module is None or hasattr(module.WandbLogger._generate_dataset, "__wrapped__"):
        return
    table = module.WandbLogger._generate_dataset

    @functools.wraps(table)
    def filled(self: Any, data: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> Any:
        names = [entry["metric"] for entry in config["metric_list"]]
        absent = dict.fromkeys(names, math.nan)
        return table(self, [{**absent, **sample} for sample in data], config)

    module.WandbLogger._generate_dataset = filled
