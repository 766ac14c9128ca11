"""`nabla-eval run --dry-run`: load and check everything, say what it tells, try a few documents."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TextIO
from unittest.mock import patch

from nabla_eval.errors import ModelError
from nabla_eval.terminal import say

if TYPE_CHECKING:
    from nabla_eval.harness.answer import Work
    from nabla_eval.runs.command import Evaluation
    from nabla_eval.traces import Record
    from nabla_eval.traces.manifest import Manifest

TOKENS = 32  # of a response, at most, that a dry run writes
SECONDS = 60.0  # after which it begins nothing more of an item


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
    out: TextIO
    documents: dict[str, int] = field(default_factory=dict)  # of each task, in the run itself
    samples: dict[str, int] = field(default_factory=dict)  # responses to a document
    longest: dict[str, int] = field(default_factory=dict)  # tokens of a response, at most

    def items(self, task: str) -> int:
        """Responses of a task in the run itself."""
        return self.documents[task] * self.samples[task]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Learn of the tasks when lm-eval has them."""
        import lm_eval.evaluator

        evaluate = lm_eval.evaluator.evaluate

        def noting(*args: Any, **options: Any) -> Any:
            self.learn(options["task_dict"]["tasks"])
            return evaluate(*args, **options)

        with patch.object(lm_eval.evaluator, "evaluate", noting):
            yield

    def learn(self, tasks: dict[str, Any]) -> None:
        """Count the documents of tasks, and how often each is answered."""
        chosen, limit = self.evaluation.documents(), self.evaluation.options.get("limit")
        for name, task in tasks.items():
            own = len((chosen or {}).get(name, ()))
            self.documents[name] = own or _documents(len(task.eval_docs), limit)
            repeats = max(1, int(task.config.repeats or 1))
            self.samples[name] = repeats if self.evaluation.arguments.spec.samples else 1

    def begin(self, lm: Any, work: Sequence[Work]) -> list[Work]:
        """Say what loading alone tells; returns the first documents' work, cut short."""
        from nabla_eval.options import change

        prompts: dict[str, int] = {}
        for problem, _ in work:
            task = problem.id.split("/")[0]
            self.longest[task] = max(self.longest.get(task, 0), problem.max_new_tokens)
            prompts[task] = max(prompts.get(task, 0), len(problem.prompt))
        if lm.rank == 0:
            self._say(lm.models, prompts)
        shortened = []
        for problem, config in work:
            seconds = min(SECONDS, config.max_item_seconds or SECONDS)
            brief = replace(problem, max_new_tokens=min(TOKENS, problem.max_new_tokens))
            shortened.append((brief, change(config, max_item_seconds=seconds)))
        return shortened

    def _say(self, models: dict[str, Any], prompts: dict[str, int]) -> None:
        from nabla_eval.runs.evaluate import device_name

        rows = [
            (task, f"{self.documents.get(task, 1):,}", f"{self.samples.get(task, 1):,}",
             f"{prompts[task]:,}", f"{most:,}")
            for task, most in self.longest.items()
        ]  # fmt: skip
        columns = ("task", "documents", "samples", "first prompt", "response at most")
        table(self.out, "What would be run; lengths in tokens", columns, rows)
        options = self.evaluation.options
        lines = [f"Device: {device_name(options['device'])}. Batch size: {options['batch_size']}."]
        lines += [f"{role.capitalize()}: {models.get(role)}" for role in ("policy", "reward")]
        longest = max(prompts[task] + self.longest[task] for task in prompts)
        lines += memory(self.evaluation, models, longest)
        lines.append(f"Disk: {free_space(self.folder) / 2**30:,.1f} GiB are free.")
        lines.append(
            f"Trying one document of each task: at most {TOKENS} tokens a response, and "
            f"{SECONDS:.0f} s an item."
        )
        say("\n".join(lines), file=self.out)


def try_first_documents(evaluation: Evaluation, manifest: Manifest, folder: Path) -> None:
    """Print the plan of a run, then what it will take; nothing is written into its folder.

    Raises what the run itself would raise before and at its first item.
    """
    from nabla_eval.cost.peak import describe
    from nabla_eval.runs.evaluate import Evaluator
    from nabla_eval.runs.folder import inspect

    state = inspect(folder, manifest).state
    dry = DryRun(evaluation, folder, sys.stdout)
    # lm-eval's own table is of one document, and no result: it goes where the logs go.
    with (
        TemporaryDirectory(prefix="nabla-eval-dry-run-") as place,
        redirect_stdout(sys.stderr),
        dry.listening(),
    ):
        brief = replace(evaluation, options=_first_documents(evaluation))
        evaluator = Evaluator(keep=False)
        done = evaluator.evaluate(Path(place), brief, manifest, begin=dry.begin)
        estimates = estimate(Path(place), dry)
    rows = [
        (item.task, f"{item.items:,}", f"{item.calls:,.0f}", f"{item.tokens:,.0f}",
         f"{item.items * item.calls:,.0f}", f"{item.hours:,.2g}")
        for item in estimates
    ]  # fmt: skip
    columns = ("task", "items", "calls each", "tokens each", "calls", "hours")
    table(sys.stdout, "What the run would take, from one document of each task", columns, rows)
    say("\n".join(remarks(estimates)))
    if done["peak_memory"] is not None:
        say(f"Memory: {describe(done['peak_memory'])} with one document of each task.")
    say(disk(folder, sum(item.items * item.bytes for item in estimates)))
    word = {"new": "would be made", "unfinished": "would be continued", "done": "is done already"}
    say(f"Nothing was kept. {folder} {word[state]}.")


def _first_documents(evaluation: Evaluation) -> dict[str, Any]:
    """Return the options with one document of each task; lm-eval refuses --samples with --limit."""
    chosen = evaluation.documents()
    if chosen is None:
        return {**evaluation.options, "limit": 1}
    first = {task: places[:1] for task, places in chosen.items()}
    return {**evaluation.options, "samples": first}


def estimate(folder: Path, dry: DryRun) -> list[TaskEstimate]:
    """From the trace of a run over the first document of each task."""
    from nabla_eval.traces import read

    sizes = [file.stat().st_size for file in folder.glob("trace-*")]
    records = read(folder)
    found = []
    for task, most in dry.longest.items():
        own = [record for record in records if record["id"].split("/")[0] == task]
        scaled = most > TOKENS and any(_cut(record) for record in own)
        scale = most / TOKENS if scaled else 1.0

        def mean(values: list[float], scale: float = scale) -> float:
            return scale * sum(values) / max(1, len(values))

        found.append(
            TaskEstimate(
                task,
                dry.items(task),
                mean([record["ledger"]["model_calls"] for record in own]),
                mean([record["ledger"]["generated_tokens"] for record in own]),
                mean([record["seconds"] for record in own]),
                scale * sum(sizes) / max(1, len(records)),
                scaled,
                any(record["outcome"]["ended"] == "max_item_seconds" for record in own),
            )
        )
    return found


def _cut(record: Record) -> bool:
    """Whether a response ended because there was no room for more."""
    return any(end["stop"] == "length" for end in (record["outcome"], *record["drafts"]))


def remarks(estimates: Sequence[TaskEstimate]) -> list[str]:
    """How far the figures of a dry run can be trusted."""
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


def _documents(original: int, limit: float | None) -> int:
    """Documents that lm-eval's --limit leaves: a count, or below 1 a share."""
    if limit is None:
        return original
    return min(original, math.ceil(original * limit) if limit < 1 else int(limit))


def table(out: TextIO, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """One row per task."""
    from rich.table import Table

    from nabla_eval.cli.screen import Screen

    shown = Table(title=title)
    for column in columns:
        shown.add_column(column, justify="left" if column == "task" else "right")
    for row in rows:
        shown.add_row(*row)
    Screen(out).print(shown)


def memory(evaluation: Evaluation, models: dict[str, Any], tokens: int) -> list[str]:
    """What both models need for batches of whole sequences, by `models.memory`, and what there is.

    Raises `ModelError` where one sequence alone does not fit.
    """
    from nabla_eval.models.check import PairUse, check_pair

    if models.get("reward") is None:
        return []
    size = str(evaluation.options["batch_size"])
    batch = int(size) if size.isdecimal() else 1
    batch = max(1, min(batch, evaluation.arguments.max_batch_tokens // tokens))
    needed = {
        count: check_pair(
            models["policy"], models["reward"],
            PairUse(
                length=tokens, batch=count, vocab="force", dtype=models["dtype"],
                reward_dtype=evaluation.arguments.dtype_of_reward,
            ),
        ).bytes
        for count in {1, batch}
    }  # fmt: skip
    there = device_memory(evaluation.options["device"])
    words = f"{tokens:,} tokens and {models['dtype']} weights"
    if needed[1] > there:
        raise ModelError(
            f"One response needs about {needed[1] / 2**30:,.1f} GiB ({words}), and the device has "
            f"{there / 2**30:,.1f}. Use a smaller dtype, gradient_checkpointing=true, a smaller "
            "max_gen_toks, or smaller models."
        )
    line = (
        f"TaskEstimate: {needed[batch] / 2**30:,.2f} GiB of {there / 2**30:,.1f} for gradients of "
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


def free_space(folder: Path) -> int:
    """Bytes that are free where a folder is, or would be made."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free


def disk(folder: Path, needed: float) -> str:
    """Whether the traces will fit."""
    free = free_space(folder)
    words = f"Disk: about {needed / 2**20:,.1f} MiB of traces, {free / 2**30:,.1f} GiB are free"
    return f"{words}." if needed < free / 2 else f"{words}: too little. Choose another --output."
