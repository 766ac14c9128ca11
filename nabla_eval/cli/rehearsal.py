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

from nabla_eval.errors import ModelError

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
        longest = length(Path(place))
    table(estimates)
    lines = [f"Device: {done['device']}. Batch size: {manifest['batch_size']}."]
    lines += [f"{role.capitalize()}: {done['models'].get(role)}" for role in ("policy", "reward")]
    if done["peak_memory"] is not None:
        lines.append(f"Memory: {describe(done['peak_memory'])} with one item at a time.")
    lines += memory(command, done, longest)
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


def length(folder: Path) -> int:
    """Tokens of the longest prompt of a run of one document a task, and of its longest response."""
    from nabla_eval.traces import read

    (results,) = folder.glob("results_*.json")
    configs = json.loads(results.read_text(encoding="utf-8"))["configs"].values()
    asked = [(config.get("generation_kwargs") or {}).get("max_gen_toks") for config in configs]
    prompts = [
        record["ledger"]["prefill_tokens"] / max(1, record["ledger"]["prefills"])
        for record in read(folder)
    ]
    return math.ceil(max(prompts)) + max(int(count or 256) for count in asked)  # as lm-eval's hf


def memory(command: Command, done: Manifest, tokens: int) -> list[str]:
    """What both models need for batches of whole sequences, by `models.memory`, and what there is.

    Raises `ModelError` where one sequence alone does not fit.
    """
    from nabla_eval.models.check import Asked, check_pair

    models = done["models"]
    if models.get("reward") is None:
        return []
    size = str(done["batch_size"])
    batch = int(size) if size.isdecimal() else 1
    batch = max(1, min(batch, command.arguments.max_batch_tokens // tokens))
    needed = {
        count: check_pair(
            models["policy"], models["reward"],
            Asked(length=tokens, batch=count, dtype=models["dtype"], vocab="force"),
        ).bytes
        for count in {1, batch}
    }  # fmt: skip
    there = device_memory(command.namespace.device)
    words = f"{tokens:,} tokens and {models['dtype']} weights"
    if needed[1] > there:
        raise ModelError(
            f"One response needs about {needed[1] / 2**30:,.1f} GiB ({words}), and the device has "
            f"{there / 2**30:,.1f}. Use a smaller dtype, gradient_checkpointing=true, a smaller "
            "max_gen_toks, or smaller models."
        )
    line = (
        f"Estimate: {needed[batch] / 2**30:,.2f} GiB of {there / 2**30:,.1f} for gradients of "
        f"{batch} × {words}, with the cache of as many rollouts."
    )
    if needed[batch] > there:
        line += " Too much: batches will be halved; a smaller batch_size avoids it."
    return [line]


def device_memory(device: str | None) -> int:
    """Bytes of a GPU, or of the machine where the models are on its CPU."""
    import psutil
    import torch

    if torch.cuda.is_available() and not str(device or "cuda").startswith("cpu"):
        return int(torch.cuda.get_device_properties(torch.device(device or "cuda")).total_memory)
    return int(psutil.virtual_memory().total)


def disk(folder: Path, needed: float) -> str:
    """Whether the traces will fit. The folder itself may not exist yet."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    words = f"Disk: about {needed / 2**20:,.1f} MiB of traces, {free / 2**30:,.1f} GiB are free"
    return f"{words}." if needed < free / 2 else f"{words}: too little. Choose another --output."
