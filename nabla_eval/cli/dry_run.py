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
    from nabla_eval.traces import Record
    from nabla_eval.traces.manifest import Manifest

TOKENS = 32  # of a response, at most, that a dry run writes
SECONDS = 60.0  # after which it begins nothing more of an item
GIB = 2**30
REMARK = (
    "One document says little about the mean, and items in batches take less than one by one: the "
    "hours are an upper bound."
)


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
        self.screen.print("\n".join(lines), soft_wrap=True)

    def estimate(self, tried: Path) -> None:
        """Print what the run will take, from the traces of the documents that were tried."""
        from nabla_eval.traces import read

        documents, records = documents_of(tried, self.evaluation), read(tried)
        size = sum(file.stat().st_size for file in tried.glob("trace-*")) / max(1, len(records))
        rows, traces, notes = [], 0.0, [REMARK]
        for task, most in self.longest.items():
            own = [record for record in records if record["id"].split("/")[0] == task]
            items = documents[task] * len(own)  # the document is answered `repeats` times
            cut = most > TOKENS and any(map(_cut, own))
            mean = (most / TOKENS if cut else 1.0) / max(1, len(own))
            calls = mean * sum(record["ledger"]["model_calls"] for record in own)
            tokens = mean * sum(record["ledger"]["generated_tokens"] for record in own)
            hours = items * mean * sum(record["seconds"] for record in own) / 3600
            rows.append(
                (task, f"{items:,}", f"{calls:,.0f}", f"{tokens:,.0f}", f"{items * calls:,.0f}",
                 f"{hours:,.2g}")
            )  # fmt: skip
            traces += items * size * (most / TOKENS if cut else 1.0)
            if cut:
                notes.append(
                    f"Responses of {task} were cut after {TOKENS} tokens: the figures are those of "
                    "the longest that they may be."
                )
            if any(record["outcome"]["ended"] == "max_item_seconds" for record in own):
                notes.append(
                    f"{task} took more than {SECONDS:.0f} s an item and was stopped: its figures "
                    "are too low."
                )
        columns = ("task", "items", "calls each", "tokens each", "calls", "hours")
        title = "What the run would take, from one document of each task"
        self.screen.print(table(columns, rows, right=columns[1:], title=title))
        notes.append(f"Traces: about {traces / 2**20:,.1f} MiB.")
        self.screen.print("\n".join(notes), soft_wrap=True)


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
        done = Evaluator(keep=False).evaluate(Path(place), brief, manifest, begin=dry.begin)
        if process_number("RANK", 0) > 0:
            return
        dry.estimate(Path(place))
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
