"""`nabla-eval run --dry-run`: load and check everything, say what it tells, try a few documents."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Sequence
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
    from nabla_eval.runs.evaluate import Evaluator
    from nabla_eval.traces import Record
    from nabla_eval.traces.manifest import Manifest

TOKENS = 32  # of a response, at most, that a dry run writes
SECONDS = 60.0  # after which it begins nothing more of an item
GIB = 2**30
REMARK = (
    "One document says little about the mean, and items in batches take less than one by one: the "
    "hours are an upper bound."
)


@dataclass(frozen=True)
class Expected:
    """What a run will take for one task."""

    task: str
    items: int
    calls: float  # an item
    tokens: float
    hours: float  # of all items
    longer: float  # than what was tried, where that was cut
    stopped: bool  # before its end, for it took too long

    def notes(self) -> list[str]:
        """Say what is wrong with the figures."""
        found = []
        if self.longer > 1:
            found.append(
                f"Responses of {self.task} were cut after {TOKENS} tokens: the figures are those "
                "of the longest that they may be."
            )
        if self.stopped:
            found.append(
                f"{self.task} took more than {SECONDS:.0f} s an item and was stopped: its figures "
                "are too low."
            )
        return found


@dataclass
class DryRun:
    """One dry run: `begin` is called with what was loaded and is to be answered first."""

    evaluation: Evaluation
    folder: Path
    screen: Screen | None = None  # None: what loading tells is not said
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
        if lm.rank == 0 and self.screen is not None:
            self._say(self.screen, lm.models, prompts)
        return shortened

    def _say(self, screen: Screen, models: dict[str, Any], prompts: dict[str, int]) -> None:
        from nabla_eval.runs.evaluate import device_name

        rows = [(t, f"{prompts[t]:,}", f"{most:,}") for t, most in self.longest.items()]
        columns = ("task", "first prompt", "response at most")
        title = "What would be run; lengths in tokens"
        screen.print(table(columns, rows, right=columns[1:], title=title))
        options = self.evaluation.options
        longest = max(prompts[task] + most for task, most in self.longest.items())
        place = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        lines = [
            f"Device: {device_name(options['device'])}. Batch size: {options['batch_size']}.",
            f"Policy: {models.get('policy')}",
            f"Reward: {models.get('reward')}",
            *memory(self.evaluation, models, longest),
            f"Disk: {shutil.disk_usage(place).free / GIB:,.1f} GiB are free.",
            f"Trying one document of each task: at most {TOKENS} tokens a response, and "
            f"{SECONDS:.0f} s an item.",
        ]
        screen.print("\n".join(lines), soft_wrap=True)

    def answer(self, manifest: Manifest, place: Path, evaluator: Evaluator) -> Manifest:
        """Answer the first document of each task into a folder that will be thrown away."""
        chosen = self.evaluation.documents()
        first = {"samples": {task: places[:1] for task, places in (chosen or {}).items()}}
        options = {**self.evaluation.options, **(first if chosen else {"limit": 1})}
        brief = replace(self.evaluation, options=options)
        return evaluator.evaluate(place, brief, manifest, begin=self.begin)

    def expected(self, tried: Path) -> list[Expected]:
        """Return what each task will take, from the traces of the documents that were tried."""
        from nabla_eval.traces import read

        documents, records = documents_of(tried, self.evaluation), read(tried)
        found = []
        for task, most in self.longest.items():
            own = [record for record in records if record["id"].split("/")[0] == task]
            items = documents[task] * len(own)  # the document is answered `repeats` times
            longer = most / TOKENS if most > TOKENS and any(map(_cut, own)) else 1.0
            mean = longer / max(1, len(own))
            calls = mean * sum(record["ledger"]["model_calls"] for record in own)
            tokens = mean * sum(record["ledger"]["generated_tokens"] for record in own)
            hours = items * mean * sum(record["seconds"] for record in own) / 3600
            stopped = any(record["outcome"]["ended"] == "max_item_seconds" for record in own)
            found.append(Expected(task, items, calls, tokens, hours, longer, stopped))
        return found

    def estimate(self, tried: Path, screen: Screen) -> None:
        """Print what the run will take, from the traces of the documents that were tried."""
        from nabla_eval.traces import read

        size = sum(file.stat().st_size for file in tried.glob("trace-*")) / max(1, len(read(tried)))
        rows, traces, notes = [], 0.0, [REMARK]
        for found in self.expected(tried):
            rows.append(
                (found.task, f"{found.items:,}", f"{found.calls:,.0f}", f"{found.tokens:,.0f}",
                 f"{found.items * found.calls:,.0f}", f"{found.hours:,.2g}")
            )  # fmt: skip
            traces += found.items * size * found.longer
            notes += found.notes()
        columns = ("task", "items", "calls each", "tokens each", "calls", "hours")
        title = "What the run would take, from one document of each task"
        screen.print(table(columns, rows, right=columns[1:], title=title))
        notes.append(f"Traces: about {traces / 2**20:,.1f} MiB.")
        screen.print("\n".join(notes), soft_wrap=True)


def try_first_documents(evaluation: Evaluation, manifest: Manifest, folder: Path) -> None:
    """Print the plan of a run, then what it will take; nothing is written into its folder.

    Raises what the run itself would raise before and at its first item.
    """
    from nabla_eval.cost.peak import describe
    from nabla_eval.harness.arguments import process_number
    from nabla_eval.runs.evaluate import Evaluator
    from nabla_eval.runs.folder import inspect

    state = inspect(folder, manifest).state
    screen = Screen()
    dry = DryRun(evaluation, folder, screen)
    # lm-eval's own table is of one document, and no result: it goes where the logs go.
    with (
        TemporaryDirectory(prefix="nabla-eval-dry-run-") as place,
        redirect_stdout(sys.stderr),
    ):
        done = dry.answer(manifest, Path(place), Evaluator(keep=False))
        if process_number("RANK", 0) > 0:
            return
        dry.estimate(Path(place), screen)
    if done["peak_memory"] is not None:
        say(f"Memory: {describe(done['peak_memory'])} with one document of each task.")
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


def _cut(record: Record) -> bool:
    """Return whether a response ended because there was no room for more."""
    return any(end["stop"] == "length" for end in (record["outcome"], *record["drafts"]))


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
    dtypes = {"dtype": models["dtype"], "reward_dtype": evaluation.arguments.dtype_of_reward}
    one, whole = (
        check_pair(
            models["policy"],
            models["reward"],
            PairUse(length=tokens, batch=rows, vocab="force", **dtypes),
        ).bytes
        for rows in (1, batch)
    )
    there = device_memory(evaluation.options["device"])
    words = f"{tokens:,} tokens and {models['dtype']} weights"
    if one > there:
        raise ModelError(
            f"One response needs about {one / GIB:,.1f} GiB ({words}), and the device has "
            f"{there / GIB:,.1f}. Use a smaller dtype, gradient_checkpointing=true, a smaller "
            "max_gen_toks, or smaller models."
        )
    line = (
        f"Memory: about {whole / GIB:,.2f} GiB of {there / GIB:,.1f} for gradients of "
        f"{batch} × {words}, with the cache of as many rollouts."
    )
    if whole > there:
        line += " Too much: batches will be halved; a smaller batch_size avoids it."
    return [line]


def device_memory(device: str | None) -> int:
    """Return the bytes of a GPU, or of the machine where the models are on its CPU."""
    import psutil
    import torch

    if torch.cuda.is_available() and not str(device or "cuda").startswith("cpu"):
        return int(torch.cuda.get_device_properties(torch.device(device or "cuda")).total_memory)
    return int(psutil.virtual_memory().total)
