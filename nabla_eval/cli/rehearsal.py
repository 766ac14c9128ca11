"""`nabla-eval run --dry-run`: load and check everything, answer one document of each task."""

from __future__ import annotations

import json
import math
import shutil
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nabla_eval.harness.command import Command
    from nabla_eval.traces.manifest import Manifest


@dataclass(frozen=True)
class Estimate:
    """What one task will take, from what its first document took. Means are per item."""

    task: str
    items: int  # documents x repeats
    calls: float
    tokens: float
    seconds: float  # alone, without others in its batch
    bytes: float  # of trace

    @property
    def hours(self) -> float:
        """One item after another."""
        return self.items * self.seconds / 3600


def rehearse(command: Command, manifest: Manifest, folder: Path) -> None:
    """Print the plan of a run and what it will take; nothing is written into its folder.

    Raises what the run itself would raise before and at its first item.
    """
    from nabla_eval.cost.peak import describe
    from nabla_eval.harness.folder import inspect

    state = inspect(folder, manifest).state
    namespace = Namespace(**{**vars(command.namespace), "limit": 1})
    # What lm-eval prints of one document is no result: it goes where the logs go.
    with (
        TemporaryDirectory(prefix="nabla-eval-dry-run-") as place,
        redirect_stdout(sys.stderr),
    ):
        done = replace(command, namespace=namespace).execute(Path(place), manifest)
        estimates = estimate(Path(place), command.namespace.limit)
    table(estimates)
    lines = [f"Device: {done['device']}. Batch size: {manifest['batch_size']}."]
    lines += [f"{role.capitalize()}: {done['models'].get(role)}" for role in ("policy", "reward")]
    if done["peak_memory"] is not None:
        lines.append(f"Memory: {describe(done['peak_memory'])} with one item at a time.")
    lines.append(disk(folder, sum(item.items * item.bytes for item in estimates)))
    word = {"new": "would be made", "unfinished": "would be continued", "done": "is done already"}
    lines.append(f"Nothing was kept. {folder} {word[state]}.")
    print("\n" + "\n".join(lines))


def estimate(folder: Path, limit: float | None) -> list[Estimate]:
    """From the results and the trace of a run over the first document of each task."""
    from nabla_eval.traces import read

    (results,) = folder.glob("results_*.json")
    about: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    sizes = {file: file.stat().st_size for file in folder.glob("trace-*")}
    records = read(folder)
    bytes_each = sum(sizes.values()) / len(records)
    found = []
    for task, count in about["n-samples"].items():
        own = [record for record in records if record["id"].split("/")[0] == task]
        repeats = max(1, int(about["configs"][task].get("repeats") or 1))

        def mean(values: list[float]) -> float:
            return sum(values) / max(1, len(values))

        found.append(
            Estimate(
                task,
                _documents(count["original"], limit) * repeats,
                mean([record["ledger"]["model_calls"] for record in own]),
                mean([record["ledger"]["generated_tokens"] for record in own]),
                mean([record["seconds"] for record in own]),
                bytes_each,
            )
        )
    return found


def _documents(original: int, limit: float | None) -> int:
    """Documents that lm-eval's --limit leaves: a count, or below 1 a share."""
    if limit is None:
        return original
    return min(original, math.ceil(original * limit) if limit < 1 else int(limit))


def table(estimates: list[Estimate]) -> None:
    """One row per task."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="What the run would take, from one document of each task")
    for column in ("task", "items", "calls each", "tokens each", "calls", "hours"):
        shown.add_column(column, justify="left" if column == "task" else "right")
    for item in estimates:
        shown.add_row(
            item.task, f"{item.items:,}", f"{item.calls:,.0f}", f"{item.tokens:,.0f}",
            f"{item.items * item.calls:,.0f}", f"{item.hours:,.2g}",
        )  # fmt: skip
    console = Console(file=sys.stdout, highlight=False)
    console.print(shown)
    console.print(
        "One document says little about the mean, and items in batches take less than one by one:"
        " the hours are an upper bound."
    )


def disk(folder: Path, needed: float) -> str:
    """Whether the traces will fit. The folder itself may not exist yet."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    words = f"Disk: about {needed / 2**20:,.1f} MiB of traces, {free / 2**30:,.1f} GiB are free"
    return f"{words}." if needed < free / 2 else f"{words}: too little. Choose another --output."
