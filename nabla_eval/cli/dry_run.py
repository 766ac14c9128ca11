"""`nabla-eval run --dry-run`: load and check everything, say what it tells, try a few documents."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from nabla_eval.cli.screen import Screen, table
from nabla_eval.errors import ModelError
from nabla_eval.terminal import say

if TYPE_CHECKING:
    from nabla_eval.harness.answer import Work
    from nabla_eval.runs.command import Evaluation
    from nabla_eval.traces import Record
    from nabla_eval.traces.manifest import Manifest

TOKENS = 32  # of a response, at most, that a dry run writes
SECONDS = 60.0  # after which it begins nothing more of an item
GIB = 2**30


@dataclass(frozen=True)
class TaskEstimate:
    """What one task will take, from what its first document took. Means are per item."""

    task: str
    items: int
    calls: float
    tokens: float
    seconds: float  # alone, without others in its batch
    bytes: float  # of trace
    scaled: bool  # responses were cut short: the figures are for the longest they may be
    stopped: bool  # after SECONDS: the figures are too low

    @property
    def hours(self) -> float:
        """One item after another."""
        return self.items * self.seconds / 3600


@dataclass
class DryRun:
    """One dry run: `begin` is called with what was loaded and is to be answered first."""

    evaluation: Evaluation
    folder: Path
    screen: Screen
    longest: dict[str, int] = field(default_factory=dict)  # tokens of a task's response, at most

    def begin(self, lm: Any, work: Sequence[Work]) -> list[Work]:
        """Say what loading alone tells; returns the first documents' work, cut short."""
        from nabla_eval.options import change

        prompts: dict[str, int] = {}
        shortened = []
        for problem, config in work:
            task = problem.id.split("/")[0]
            self.longest[task] = max(self.longest.get(task, 0), problem.max_new_tokens)
            prompts[task] = max(prompts.get(task, 0), len(problem.prompt))
            seconds = min(SECONDS, config.max_item_seconds or SECONDS)
            brief = replace(problem, max_new_tokens=min(TOKENS, problem.max_new_tokens))
            shortened.append((brief, change(config, max_item_seconds=seconds)))
        if lm.rank == 0:
            self._say(lm.models, prompts)
        return shortened

    def _say(self, models: dict[str, Any], prompts: dict[str, int]) -> None:
        from nabla_eval.runs.evaluate import device_name

        rows = [(t, f"{prompts[t]:,}", f"{most:,}") for t, most in self.longest.items()]
        columns = ("task", "first prompt", "response at most")
        title = "What would be run; lengths in tokens"
        self.screen.print(table(columns, rows, right=columns[1:], title=title))
        options = self.evaluation.options
        longest = max(prompts[task] + most for task, most in self.longest.items())
        lines = [
            f"Device: {device_name(options['device'])}. Batch size: {options['batch_size']}.",
            f"Policy: {models.get('policy')}",
            f"Reward: {models.get('reward')}",
            *memory(self.evaluation, models, longest),
            f"Disk: {free_space(self.folder) / GIB:,.1f} GiB are free.",
            f"Trying one document of each task: at most {TOKENS} tokens a response, and "
            f"{SECONDS:.0f} s an item.",
        ]
        self.screen.print("\n".join(lines), soft_wrap=True)


def try_first_documents(evaluation: Evaluation, manifest: Manifest, folder: Path) -> None:
    """Print the plan of a run, then what it will take; nothing is written into its folder.

    Raises what the run itself would raise before and at its first item.
    """
    from nabla_eval.cost.peak import describe
    from nabla_eval.harness.arguments import process_number
    from nabla_eval.runs.evaluate import Evaluator
    from nabla_eval.runs.folder import inspect

    state = inspect(folder, manifest).state
    dry = DryRun(evaluation, folder, Screen())
    chosen = evaluation.documents()
    first = {"samples": {task: places[:1] for task, places in (chosen or {}).items()}}
    brief = replace(
        evaluation, options={**evaluation.options, **(first if chosen else {"limit": 1})}
    )
    # lm-eval's own table is of one document, and no result: it goes where the logs go.
    with (
        TemporaryDirectory(prefix="nabla-eval-dry-run-") as place,
        redirect_stdout(sys.stderr),
    ):
        evaluator = Evaluator(keep=False)
        done = evaluator.evaluate(Path(place), brief, manifest, begin=dry.begin)
        if process_number("RANK", 0) > 0:
            return
        documents = documents_of(Path(place), evaluation)
        estimates = estimate(Path(place), documents, dry.longest)
    rows = [
        (item.task, f"{item.items:,}", f"{item.calls:,.0f}", f"{item.tokens:,.0f}",
         f"{item.items * item.calls:,.0f}", f"{item.hours:,.2g}")
        for item in estimates
    ]  # fmt: skip
    columns = ("task", "items", "calls each", "tokens each", "calls", "hours")
    title = "What the run would take, from one document of each task"
    dry.screen.print(table(columns, rows, right=columns[1:], title=title))
    say("\n".join(remarks(estimates)))
    if done["peak_memory"] is not None:
        say(f"Memory: {describe(done['peak_memory'])} with one document of each task.")
    say(disk(folder, sum(item.items * item.bytes for item in estimates)))
    word = {"new": "would be made", "unfinished": "would be continued", "done": "is done already"}
    say(f"Nothing was kept. {folder} {word[state]}.")


def documents_of(folder: Path, evaluation: Evaluation) -> dict[str, int]:
    """Return how many documents of each task the run will answer, by lm-eval's own count.

    `--limit` is a count, or below 1 a share.
    """
    (results,) = folder.glob("results_*.json")
    counts = json.loads(results.read_text(encoding="utf-8"))["n-samples"]
    chosen, limit = evaluation.documents() or {}, evaluation.options.get("limit")
    found = {}
    for task, count in counts.items():
        there = len(chosen.get(task, ())) or count["original"]
        most = there if limit is None or task in chosen else limit
        found[task] = min(there, math.ceil(there * most) if most < 1 else int(most))
    return found


def estimate(
    folder: Path, documents: Mapping[str, int], longest: Mapping[str, int]
) -> list[TaskEstimate]:
    """Return what each task will take, from the traces of its first document."""
    from nabla_eval.traces import read

    sizes = [file.stat().st_size for file in folder.glob("trace-*")]
    records = read(folder)
    found = []
    for task, most in longest.items():
        own = [record for record in records if record["id"].split("/")[0] == task]
        scaled = most > TOKENS and any(_cut(record) for record in own)
        scale = most / TOKENS if scaled else 1.0
        mean = scale / max(1, len(own))
        found.append(
            TaskEstimate(
                task=task,
                items=documents[task] * len(own),  # the document is answered `repeats` times
                calls=mean * sum(record["ledger"]["model_calls"] for record in own),
                tokens=mean * sum(record["ledger"]["generated_tokens"] for record in own),
                seconds=mean * sum(record["seconds"] for record in own),
                bytes=scale * sum(sizes) / max(1, len(records)),
                scaled=scaled,
                stopped=any(record["outcome"]["ended"] == "max_item_seconds" for record in own),
            )
        )
    return found


def _cut(record: Record) -> bool:
    """Return whether a response ended because there was no room for more."""
    return any(end["stop"] == "length" for end in (record["outcome"], *record["drafts"]))


def remarks(estimates: Sequence[TaskEstimate]) -> list[str]:
    """Return how far the figures of a dry run can be trusted."""
    lines = [
        "One document says little about the mean, and items in batches take less than one by one:"
        " the hours are an upper bound."
    ]
    if scaled := [item.task for item in estimates if item.scaled]:
        lines.append(
            f"Responses of {', '.join(scaled)} were cut after {TOKENS} tokens: the figures are "
            "those of the longest that they may be."
        )
    if stopped := [item.task for item in estimates if item.stopped]:
        lines.append(
            f"{', '.join(stopped)} took more than {SECONDS:.0f} s an item and was stopped: the "
            "figures are too low, the hours too."
        )
    return lines


def memory(evaluation: Evaluation, models: dict[str, Any], tokens: int) -> list[str]:
    """Return what both models need for batches of whole sequences, and what there is.

    Raises `ModelError` where one sequence alone does not fit.
    """
    from nabla_eval.models.check import PairUse, check_pair

    if models.get("reward") is None:
        return []
    size = str(evaluation.options["batch_size"])
    batch = int(size) if size.isdecimal() else 1
    batch = max(1, min(batch, evaluation.arguments.max_batch_tokens // tokens))

    def needed(batch: int) -> int:
        use = PairUse(
            length=tokens, batch=batch, vocab="force", dtype=models["dtype"],
            reward_dtype=evaluation.arguments.dtype_of_reward,
        )  # fmt: skip
        return check_pair(models["policy"], models["reward"], use).bytes

    one, all_ = needed(1), needed(batch)
    there = device_memory(evaluation.options["device"])
    words = f"{tokens:,} tokens and {models['dtype']} weights"
    if one > there:
        raise ModelError(
            f"One response needs about {one / GIB:,.1f} GiB ({words}), and the device has "
            f"{there / GIB:,.1f}. Use a smaller dtype, gradient_checkpointing=true, a smaller "
            "max_gen_toks, or smaller models."
        )
    line = (
        f"Memory: about {all_ / GIB:,.2f} GiB of {there / GIB:,.1f} for gradients of "
        f"{batch} × {words}, with the cache of as many rollouts."
    )
    if all_ > there:
        line += " Too much: batches will be halved; a smaller batch_size avoids it."
    return [line]


def device_memory(device: str | None) -> int:
    """Return the bytes of a GPU, or of the machine where the models are on its CPU."""
    import psutil
    import torch

    if torch.cuda.is_available() and not str(device or "cuda").startswith("cpu"):
        return int(torch.cuda.get_device_properties(torch.device(device or "cuda")).total_memory)
    return int(psutil.virtual_memory().total)


def free_space(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or would be made."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free


def disk(folder: Path, needed: float) -> str:
    """Say whether the traces will fit."""
    free = free_space(folder)
    words = f"Disk: about {needed / 2**20:,.1f} MiB of traces, {free / GIB:,.1f} GiB are free"
    return f"{words}." if needed < free / 2 else f"{words}: too little. Choose another --output."
