"""Find run folders and read them: traces, lm-eval's samples and results, and `run.json`.

A run folder holds `trace-rank*.jsonl` (directly or in `traces/`) and, anywhere below, what
`lm_eval --output_path DIR --log_samples` writes. `run.json` is optional.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from nabla_eval.analysis.runs import Run, Scores, task_of
from nabla_eval.errors import DataError
from nabla_eval.terminal import visible
from nabla_eval.traces.index import kept
from nabla_eval.traces.manifest import check_schema
from nabla_eval.traces.schema import document
from nabla_eval.validation import UNREADABLE, mismatch, regular, text_of

METRIC = "exact_match"
TRACES = "trace-rank*.jsonl"
_SAMPLES = re.compile(r"samples_(?P<task>.+?)(?:_(?P<date>\d{4}-\d\d-\d\dT[\d.:+-]+))?\.jsonl")
_KEPT = "responses kept"  # by the filter, for the metrics; beside the fields of a sample
_EACH = {  # lm-eval's filters that choose no response by what it or another says
    "regex", "regex_pos", "multi_choice_regex", "remove_whitespace", "lowercase", "uppercase",
    "map", "format_span", "take_first", "take_first_k",
}  # fmt: skip
_TEXTS = ("arguments", "resps", "filtered_resps")  # traces have them, and they are long


@dataclass(frozen=True)
class ScoredTask:
    """What lm-eval's files in a run folder say about one task, and `run.json` about the run."""

    task: str
    scores: Scores  # problem -> one score (of repeats: their mean); none of those that failed
    graded: int | None  # the score is of so many of a problem's answers, the first ones; None: all
    metrics: Mapping[str, Scores]
    docs: Mapping[str, Mapping[str, Any]]
    items: Mapping[str, str]  # problem -> hash of what it asks, as lm-eval computes it
    grader: str  # who said which answers are right; "" where the task does not say
    filters: tuple[str, ...]  # the task's, the one that scores are by first
    seeds: tuple[int | None]
    preset: str | None
    seconds: float


def find(root: str | Path) -> list[Path]:
    """Run folders at or below a folder, sorted. Raises `DataError` where there are none.

    Warns of runs that left no traces: those that failed at once, and cells of a sweep that never
    began.
    """
    root = Path(root)
    if not os.path.exists(root):
        raise DataError(f"There is no folder {root}. Give the --output_path of a run.")
    if root.is_file():
        root = root.parent
    homes = _homes(root)
    if absent := _absent(root, homes):
        names = list(absent)
        told = ", ".join(f"{name} ({absent[name]})" for name in names[:3])
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        fault = f"{len(names)} run{'s' * (len(names) > 1)} left no answers: {told}{more}."
        if not homes:
            raise DataError(f"{fault} Run the same command again when that is mended.")
        warnings.warn(f"{fault} The rest is read.", stacklevel=2)
    if not homes:
        raise DataError(
            f"No traces (trace-rank*.jsonl) at or below {root}. Run with trace_dir= and "
            "--output_path set to one folder, or with `nabla-eval run`."
        )
    return sorted(homes)


def _homes(root: Path) -> set[Path]:
    """Return the folders with traces at or below one, directly or in their `traces/`."""
    holders = {file.parent for file in root.rglob(TRACES)}
    return {holder.parent if holder.name == "traces" else holder for holder in holders}


def _absent(root: Path, homes: Collection[Path]) -> dict[str, str]:
    """Return the folders of runs without traces, below this one, and why there are none."""
    found = {}
    for file in (*root.rglob("run.json"), *root.rglob("study.json")):
        try:
            told = read_json(file)
        except DataError:
            continue
        cells = told.get("cells", ()) if file.name == "study.json" else [{"folder": ".", **told}]
        for cell in cells:
            folder, state = (
                file.parent / cell.get("folder", "."),
                cell.get("status", cell.get("state", "done")),
            )
            if folder not in homes and state != "done":
                why = " ".join((cell.get("error") or state).split())
                found[folder] = why if len(why) <= 120 else f"{why[:119]}…"
    names = {folder: os.path.relpath(folder, root.parent) for folder in sorted(found)}
    return {visible(name): visible(found[folder]) for folder, name in names.items()}


def files_of(home: Path, pattern: str) -> list[Path]:
    """Return the files of a run folder with such a name, and none of a run further down."""
    others = _homes(home) - {home}
    return [
        file for file in home.rglob(pattern)
        if not any(file.is_relative_to(other) for other in others)
    ]  # fmt: skip


def read_folder(home: Path, metric: str | None = None) -> list[Run]:
    """Return the tasks of one run folder as runs without a name.

    Warns of tasks that lack traces or samples, and leaves them out; so it does with a run that is
    not finished. `metric` is what counts as the score, by default `exact_match`; "name,filter" also
    picks one of lm-eval's filters. Raises `DataError` for damaged files, and for samples and traces
    that are not of the same problems.
    """
    if not finished(home):
        return []
    records = list(kept(traces_of(home)))
    found = []
    for scored in evaluations(home, [record["id"] for record in records], metric):
        own = [
            r for r in records
            if task_of(r["id"]) == scored.task and document(r["id"]) in scored.scores
        ]  # fmt: skip
        more = {name: value for name, value in vars(scored).items() if name != "task"}
        found.append(
            Run.of("", sorted(own, key=lambda r: natural(r["id"])), folders=(home,), **more)
        )
    return found


def finished(home: Path) -> bool:
    """Return whether `run.json`, where there is one, says that the run is done; warn if not."""
    check_schema(home)
    status = _told(home / "run.json").get("status", "done")
    if status != "done":
        warnings.warn(
            f"{home} is left out: its run.json says {status!r}. Run the same command again, it "
            "continues.",
            stacklevel=2,
        )
    return bool(status == "done")


def evaluations(
    home: Path, identifiers: Iterable[str], metric: str | None = None
) -> list[ScoredTask]:
    """Return what lm-eval says of each task with samples and with traced answers of these ids."""
    traced: dict[str, Counter[str]] = defaultdict(Counter)
    for identifier in identifiers:
        traced[task_of(identifier)][document(identifier)] += 1
    samples = _samples(home)
    for task in sorted(traced.keys() ^ samples.keys()):
        lack = (
            "samples but no traces, so it is left out. Run it with trace_dir=."
            if task in samples
            else f"traces but no samples_{task}_*.jsonl, so it is left out. Finish the run, with "
            "--output_path and --log_samples."
        )
        warnings.warn(f"{home}: {task} has {lack}", stacklevel=2)
    return [
        _scored(home, task, traced[task], samples[task], _facts(home, samples[task]), metric)
        for task in sorted(traced.keys() & samples.keys())
    ]


def traces_of(home: Path) -> Path:
    """Return the folder of the shards: this one, or `traces/` in it."""
    return home if any(home.glob(TRACES)) else home / "traces"


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts document 10 after document 9."""
    short = re.compile(r"\d{1,18}")  # int() refuses thousands of digits
    parts = name.split("/")
    return [(0, int(part), "") if short.fullmatch(part) else (1, 0, part) for part in parts]


def _samples(home: Path) -> dict[str, Path]:
    """Return the newest samples file of each task, of this run and of none further down."""
    found: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for file in files_of(home, "samples_*.jsonl"):
        if match := _SAMPLES.fullmatch(file.name):
            found[match["task"]].append((match["date"] or "", file))
    for task, files in found.items():
        if len(files) > 1:
            warnings.warn(
                f"{home} holds {len(files)} evaluations of {task}; the newest is read: "
                f"{max(files)[1].name}.",
                stacklevel=3,
            )
    return {task: max(files)[1] for task, files in found.items()}


def _told(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _facts(home: Path, samples: Path) -> dict[str, Any]:
    """Seed, preset and seconds from `run.json` and lm-eval's results, where known; tasks' configs.

    The results are those of the samples: a folder may hold several evaluations.
    """
    run, name = _told(home / "run.json"), _SAMPLES.fullmatch(samples.name)
    own = samples.with_name(f"results_{name and name['date']}.json")
    results = [own] if own.is_file() else files_of(home, "results*.json")
    lm_eval = read_json(max(results, key=lambda file: file.name)) if results else {}
    nabla = (lm_eval.get("config") or {}).get("nabla") or {}
    seconds = None if run.get("continued") else run.get("seconds")  # else of one sitting only
    alone = len(lm_eval.get("results") or [None]) == 1
    return {
        "seeds": (run.get("seed", nabla.get("seed")),),
        "preset": run.get("preset", nabla.get("preset")),
        "seconds": math.nan if seconds is None or not alone else float(seconds),
        "configs": lm_eval.get("configs") or {},
    }


def _grader(config: Any) -> str:
    """Who graded a task, by its configuration in lm-eval's results; before it said so, we did."""
    told = (config if isinstance(config, dict) else {}).get("metadata")
    if not isinstance(told, dict) or "items_hash" not in told:
        return ""
    return str(told.get("grader", "nabla_eval"))


def _scored(
    home: Path,
    task: str,
    traced: Mapping[str, int],
    file: Path,
    facts: dict[str, Any],
    metric: str | None,
) -> ScoredTask:
    samples = read_samples(file)
    name, _, filter = (metric or METRIC).partition(",")
    filters = [sample["filter"] for sample in samples]
    if filter:
        samples = [sample for sample in samples if sample["filter"] == filter]
        if not samples:
            raise DataError(f"{file} has no filter {filter!r}. Leave it out of --metric.")
    chosen = samples[0]["filter"]
    first = [sample for sample in samples if sample["filter"] == chosen]
    problems = {f"{task}/{sample['doc_id']}": sample for sample in first}
    failed = {problem for problem, sample in problems.items() if sample.get("failed")}
    if failed:  # by `allow_errors`: they are neither right nor wrong
        warnings.warn(
            f"{home}: {len(failed)} of {len(problems)} problems of {task} failed (first: "
            f"{min(failed)!r}) and are left out. The same command without allow_errors tries them "
            "again.",
            stacklevel=3,
        )
        problems = {p: sample for p, sample in problems.items() if p not in failed}
        if not problems:
            raise DataError(f"{home}: all problems of {task} failed. Look into its log, run again.")
    scores = {p: [_score(task, sample, name)] for p, sample in problems.items()}
    _refuse_incomplete(
        home, task, scores, {p: count for p, count in traced.items() if p not in failed}
    )
    config = facts["configs"].get(task)
    graded = _graded(problems.values(), max(traced.values()), config, chosen)
    if graded is not None:
        _warn_of_ungraded(home, task, graded, max(traced.values()))
    grader = _grader(config)
    said = {"grader": grader} if grader else {}
    return ScoredTask(
        task=task,
        scores=scores,
        graded=graded,
        metrics=_metrics(problems, name),
        docs={
            p: {"doc": s.get("doc"), "target": s.get("target"), **said} for p, s in problems.items()
        },
        items={p: str(s.get("doc_hash") or s.get("doc")) for p, s in problems.items()},
        grader=grader,
        filters=tuple(dict.fromkeys([chosen, *filters])),
        seeds=facts["seeds"],
        preset=facts["preset"],
        seconds=facts["seconds"],
    )


def _graded(
    samples: Collection[Mapping[str, Any]], answers: int, config: Any, filter: str
) -> int | None:
    """Return how many of the answers to a problem its score is of, the first ones; None: of all.

    0 where a filter such as lm-eval's majority_vote chose them: nobody says which.
    """
    kept = [sample[_KEPT] for sample in samples]
    if None in kept or min(kept) >= answers:
        return None
    return min(kept) if _functions(config, filter) <= _EACH else 0


def _functions(config: Any, filter: str) -> set[str]:
    """Return the steps of a filter by a task's configuration; none for lm-eval's default."""
    told = config.get("filter_list") if isinstance(config, dict) else None
    return {
        str(step.get("function") if isinstance(step, dict) else step)
        for each in (told if isinstance(told, list) else [])
        if isinstance(each, dict) and each.get("name") == filter
        for step in each.get("filter") or []
    }


def _warn_of_ungraded(home: Path, task: str, graded: int, answers: int) -> None:
    which = f"only the first {graded}" if graded > 1 else "only the first"
    which = which if graded else "only one, which its filter chose"
    finished_run = (home / "run.json").is_file()  # `nabla-eval run` leaves it as it is
    again = (
        "give the same command again, without its results_*" if finished_run else "evaluate again"
    )
    warnings.warn(
        f"{home}: of the {answers} answers to each problem of {task}, lm-eval scored {which}. The "
        "others are not graded and count in costs alone. To have all scored, end the filter in the "
        f"task's YAML with {{function: take_first_k, k: {answers}}} in place of take_first, "
        f"lm-eval's default, and {again}: the answers are kept.",
        stacklevel=4,
    )


def _score(task: str, sample: Mapping[str, Any], metric: str) -> float:
    """Return the score of a sample. Raises `DataError` where it has none."""
    if metric not in sample:
        raise DataError(
            f"A sample of {task} has no metric {metric!r}; it has "
            f"{', '.join(map(str, sample.get('metrics', sample)))}. Name one of these."
        )
    value = sample[metric]
    if mismatch(value, float | bool) or not math.isfinite(value):
        raise DataError(
            f"Sample {sample['doc_id']} of {task} has {metric}={value!r}, which is no finite "
            "number. Choose another --metric."
        )
    return float(value)


def _metrics(problems: Mapping[str, Mapping[str, Any]], main: str) -> dict[str, Scores]:
    """Return every further metric that is a number; a sample may lack one."""
    names = {name for sample in problems.values() for name in sample.get("metrics", ())}
    return {
        name: {
            problem: [float(sample[name])]
            for problem, sample in problems.items()
            if isinstance(sample.get(name), (int, float))
        }
        for name in sorted(names - {main})
    }


def _refuse_incomplete(home: Path, task: str, scores: Scores, counts: Mapping[str, int]) -> None:
    most = max(counts.values(), default=0)
    again = "The run is not complete: run the same command again, it continues."
    faults = [
        ("are scored but not traced", scores.keys() - counts.keys(), again),
        (
            "are traced but not scored",
            counts.keys() - scores.keys(),
            "The newest evaluation is of fewer: it had a smaller --limit, its samples were cut "
            "off, or one of more problems was stopped. Evaluate again with the larger --limit, "
            "which keeps the answers, or give each --limit a folder of its own.",
        ),
        (
            f"have fewer than {most} traced answers",
            {problem for problem, count in counts.items() if count < most},
            again,
        ),
    ]
    for what, odd, remedy in faults:
        if odd:
            raise DataError(
                f"{home}: {len(odd)} problems of {task} {what} (first: {min(odd)!r}). {remedy}"
            )


# --- lm-eval's own files: results, and samples line by line ---


class _Nabla(TypedDict, total=False):
    seed: int | None
    preset: str | None


class _Config(TypedDict, total=False):
    nabla: _Nabla | None


class _Cell(TypedDict, total=False):
    folder: str
    state: str
    error: str | None


class _Facts(TypedDict, total=False):
    """What is read of `run.json`, of lm-eval's results, and of a sweep's `study.json`."""

    status: str
    error: str | None
    cells: list[_Cell]
    seed: int | None
    preset: str | None
    seconds: float | None
    continued: int
    config: _Config | None
    results: dict[str, Any] | None
    configs: dict[str, Any] | None


class _Item(TypedDict):
    doc_id: int | str


class _Sample(_Item, total=False):
    """What is read of a line of a samples file, beside the values of its metrics."""

    filter: str
    metrics: list[str]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `DataError` where it is torn, or none that has these facts."""
    try:
        content = json.loads(text_of(path))
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({error}). Run again, or remove it.") from error
    if wrong := mismatch(content, _Facts):
        raise DataError(f"{path}: {wrong}. Run again, or remove it.")
    assert isinstance(content, dict)
    return content


def read_samples(file: Path) -> list[dict[str, Any]]:
    """The lines of lm-eval's samples file, without the texts of requests and responses.

    Raises `DataError` for a damaged or repeated one.
    """
    samples = []
    seen = set()
    for number, line in _lines(file):
        try:
            sample = json.loads(line)
            wrong = mismatch(sample, _Sample)
        except UNREADABLE as error:
            sample, wrong = {}, str(error)
        if wrong:
            raise DataError(
                f"{file}:{number} is damaged ({wrong}). Evaluate again: trace_dir= keeps the "
                "answers, so it takes seconds."
            )
        item = (sample["doc_id"], sample.setdefault("filter", "none"))
        if item in seen:
            raise DataError(f"{file}:{number} repeats document {item[0]}. Evaluate again.")
        seen.add(item)
        light = {name: value for name, value in sample.items() if name not in _TEXTS}
        samples.append({**light, _KEPT: _kept(sample.get("filtered_resps"))})
    if not samples:
        raise DataError(f"{file} is empty. Evaluate again.")
    return samples


def _kept(responses: Any) -> int | None:
    """Return how many responses a filter kept; None where the sample does not say."""
    if not isinstance(responses, list):
        return None
    return sum(len(kept) if isinstance(kept, list) else 1 for kept in responses)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank."""
    try:
        with regular(file).open(encoding="utf-8") as lines:
            yield from ((i, line) for i, line in enumerate(lines, start=1) if line.strip())
    except UNREADABLE as error:
        raise DataError(f"{file} cannot be read ({error}). Evaluate again.") from error
