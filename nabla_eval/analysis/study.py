"""Runs from folders: seeds of one configuration pooled, items checked, every run named."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nabla_eval.analysis.accuracy import Scores
from nabla_eval.analysis.folders import Part, find, read_folder
from nabla_eval.analysis.frames import Frames
from nabla_eval.analysis.runs import Run, identity, names
from nabla_eval.errors import DataError
from nabla_eval.traces.schema import Record, document

if TYPE_CHECKING:
    from pandas import DataFrame


def load(
    paths: Iterable[str | Path],
    *,
    metric: str | None = None,
    common: bool = False,
    tasks: Sequence[str] = (),
    progress: Callable[[Iterable[Path]], Iterable[Path]] = iter,
) -> list[Run]:
    """The runs at or below some folders, by task, method and options.

    Seeds of one configuration become one run with more repeats of the same problems. Runs of one
    task must hold the same items, or `DataError` is raised; with `common`, the items that all of
    them have are used, with a warning. Mixed versions are a warning. `tasks` keeps some tasks only.
    """
    parts = _parts(paths, metric, tasks, progress)
    by_task: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        by_task[part.task].append(part)
    runs = [run for task in sorted(by_task) for run in _pooled(_same_items(by_task[task], common))]
    warn_of_versions(parts)
    named = [replace(run, name=name) for run, name in zip(runs, names(runs), strict=True)]
    return sorted(named, key=lambda run: (run.task, run.method, run.preset or "", _size(run)))


def load_pair(
    a: str | Path,
    b: str | Path,
    *,
    metric: str | None = None,
    common: bool = False,
    tasks: Sequence[str] = (),
) -> tuple[list[Run], list[Run]]:
    """The runs of two folders for a comparison, not pooled with each other; see `load`."""
    sides = [_parts([path], metric, tasks, iter) for path in (a, b)]
    names_of = [{part.task for part in side} for side in sides]
    shared = sorted(names_of[0] & names_of[1])
    runs: list[list[Run]] = [[], []]
    for task in shared:
        ours = [part for side in sides for part in side if part.task == task]
        cut = _same_items(ours, common)
        first = sum(part.task == task for part in sides[0])
        runs[0] += _pooled(cut[:first])
        runs[1] += _pooled(cut[first:])
    warn_of_versions([part for side in sides for part in side])
    together = names([*runs[0], *runs[1]])
    named = [replace(r, name=n) for r, n in zip([*runs[0], *runs[1]], together, strict=True)]
    return named[: len(runs[0])], named[len(runs[0]) :]


def frame(
    *folders: str | Path, metric: str | None = None, common: bool = False, tasks: Sequence[str] = ()
) -> Frames:
    """Return what run folders hold as two pandas DataFrames: `answers` and `candidates`.

    Example:
        >>> import nabla_eval
        >>> answers, candidates = nabla_eval.frame("results/study")
        >>> answers.groupby("run")[["score", "model_calls"]].mean()
        >>> candidates.groupby(["run", "nth"])["verdict"].value_counts(normalize=True)

    Each folder may hold one run or a whole study. `metric` is the score, by default `exact_match`;
    `tasks` keeps some tasks only; with `common`, runs on different problems are cut to those that
    all of them have. An answer is a row of `answers`, with these columns:

    - `run`, `task`, `method`, `preset`, `n`: which run it is of (its name in every report)
    - `problem` (task/document), `answer` (unique within the run), `seed`
    - `prompt`, `text`: what was asked and returned
    - `score`: of this answer; NaN where lm-eval kept only the mean over a problem's repeats
    - `metric.NAME`: the mean, over the problem's answers, of each further metric of the task
    - `reward`, `first_reward`, `draft_rewards`: the reward model's logits of the answer, of the
      first draft, and of all drafts in the order drawn
    - `stop` (eos, stop or length), `ended` (what ended the search)
    - `tokens`: length of the answer; `positions`: token positions that were passed, `visited`:
      those refined, `certified`: draws that no gradient could change
    - `candidates`: how many were judged; `reused_tokens`: tokens not drawn again thanks to prefixes
      kept, `tokens_afresh`: tokens that rollouts from the prompt would have drawn
    - the ledger's counts: `model_calls`, `generated_tokens`, `gradient_passes`, `scorings`, ...,
      and `flops` in floating-point operations
    - `seconds`: wall clock from the start of the problem to its answer, others running beside it
    - `option.NAME`: each option of the run
    - `record`: where the whole trace line is; `traces.keep.whole` reads it

    A judged candidate is a row of `candidates`: `run`, `task`, `problem`, `answer`; `nth` (from 1,
    in the order judged); `sweep` (from 0); `position` in tokens; `entropy` in nats at temperature
    1; `gradient_norm` (NaN where no gradient was taken); `old_reward` and `new_reward`; `verdict`
    (accepted, rejected or tie); `tokens`, the length of the candidate response.

    Texts are kept once, and drafts, candidates and token profiles stay on disk: a run takes a few
    kilobytes of memory per answer. Raises `DataError` as `nabla-eval report` does.
    """
    from pandas import concat

    runs = load(folders, metric=metric, common=common, tasks=tasks)
    answers, candidates = [], []
    for run in runs:
        of_run = {"run": run.name, "task": run.task}
        options = {f"option.{name}": value for name, value in run.config.items()}
        more = {"method": run.method, "preset": run.preset, "n": run.n}
        further = {
            f"metric.{name}": run.answers["problem"].map(
                {p: sum(group) / len(group) for p, group in scores.items()}
            )
            for name, scores in run.metrics.items()
        }
        answers.append(_beside({**of_run, **more}, run.answers, {**further, **options}))
        candidates.append(_beside(of_run, run.candidates, {}))
    return Frames(concat(answers, ignore_index=True), concat(candidates, ignore_index=True))


def _beside(before: Mapping[str, Any], frame: DataFrame, after: Mapping[str, Any]) -> DataFrame:
    """Return a frame with further columns in front and behind; a single value fills its column."""
    from pandas import DataFrame, Series

    def columns(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            if isinstance(value, Series)
            else Series([value] * len(frame), index=frame.index, dtype=object).infer_objects()
            for name, value in values.items()
        }

    return DataFrame({**columns(before), **dict(frame.items()), **columns(after)})


def _parts(
    paths: Iterable[str | Path],
    metric: str | None,
    tasks: Sequence[str],
    progress: Callable[[Iterable[Path]], Iterable[Path]],
) -> list[Part]:
    """Return what the run folders at or below some folders hold; `DataError` where that is
    nothing.
    """
    homes = list(dict.fromkeys(home.resolve() for path in paths for home in find(path)))
    parts = [part for home in progress(homes) for part in read_folder(home, metric)]
    parts = [part for part in parts if not tasks or part.task in tasks]
    if not parts:
        wanted = f" of {', '.join(tasks)}" if tasks else ""
        raise DataError(
            f"None of {len(homes)} run folders holds a finished run{wanted}. Give folders that "
            "hold both traces and samples."
        )
    return parts


def _size(run: Run) -> tuple[bool, int, str]:
    return run.is_twin, run.n or 0, run.name


def _same_items(parts: Sequence[Part], common: bool) -> list[Part]:
    """The parts of one task, refused or cut to the common items where they differ.

    Raises `DataError` also where they were graded by different rules.
    """
    graders = {part.grader: part.folder.name for part in parts}
    if len(graders) > 1:
        told = ", ".join(f"{name or 'an unnamed grader'} ({at})" for name, at in graders.items())
        raise DataError(
            f"The runs of {parts[0].task} were graded by different rules: {told}. Compare runs of "
            "one grader; a run is graded again by the same command with another --grader and "
            "--output."
        )
    shared = set.intersection(*(set(part.items.items()) for part in parts))
    odd = [part for part in parts if len(part.items) > len(shared)]
    if not odd:
        return list(parts)
    task = parts[0].task
    what = f"The runs of {task} do not hold the same problems: {_sizes(parts)}"
    if not common:
        raise DataError(
            f"{what}; {len(shared)} are common to all. Give --common to use these, or runs with "
            "the same --limit."
        )
    if not shared:
        raise DataError(f"{what}; none is common to all. Give runs on the same problems.")
    warnings.warn(f"{what}; the {len(shared)} common ones are used.", stacklevel=4)
    return [_cut(part, dict(shared).keys()) for part in parts]


def _sizes(parts: Sequence[Part]) -> str:
    """How many runs hold how many problems, each with an example."""
    groups: dict[int, list[Part]] = defaultdict(list)
    for part in parts:
        groups[len(part.items)].append(part)
    return ", ".join(
        f"{len(group)} of {len(parts)} runs {'has' if len(group) == 1 else 'have'} {size} "
        f"({group[0].folder.name})"
        for size, group in sorted(groups.items())
    )


def _cut(part: Part, problems: Iterable[str]) -> Part:
    """A part with some of its problems only."""
    kept = set(problems)

    def only(table: Mapping[str, Any]) -> dict[str, Any]:
        return {problem: value for problem, value in table.items() if problem in kept}

    return replace(
        part,
        records=[record for record in part.records if document(record["id"]) in kept],
        scores=only(part.scores),
        metrics={name: only(values) for name, values in part.metrics.items()},
        docs=only(part.docs),
        items=only(part.items),
        seconds=float("nan"),  # it was spent on all of them
    )


def _pooled(parts: Sequence[Part]) -> list[Run]:
    """Parts of one task as runs, the seeds of one configuration together."""
    groups: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        first = part.records[0]
        key = (first["method"], first["config_hash"], sorted(identity(first["models"]).items()))
        groups[str(key)].append(part)
    return [_pool(_without_copies(group)) for group in groups.values()]


def _without_copies(parts: Sequence[Part]) -> list[Part]:
    """One part per seed: the same draws twice are no further evidence."""
    seen: dict[str, Part] = {}
    for part in parts:
        key = part.records[0]["key"]  # of the first problem, which all of them share
        if key in seen:
            warnings.warn(
                f"{part.folder} repeats the run in {seen[key].folder} (same options, same seed), "
                "so it is left out.",
                stacklevel=6,
            )
        seen.setdefault(key, part)
    return list(seen.values())


def _pool(parts: Sequence[Part]) -> Run:
    from pandas import concat

    def together(tables: Iterable[Scores]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = defaultdict(list)
        for table in tables:
            for problem, values in table.items():
                found[problem] += values
        return dict(found)

    runs = [
        Run.of("", [_renamed(r, i) for r in part.records], part.scores, part.seconds,
               seeds=(part.seed,))
        for i, part in enumerate(parts)
    ]  # fmt: skip
    metrics = sorted(set().union(*(part.metrics for part in parts)))
    return replace(
        runs[0],
        answers=concat([run.answers for run in runs], ignore_index=True),
        candidates=concat([run.candidates for run in runs], ignore_index=True),
        scores=together(part.scores for part in parts),
        seconds=sum(part.seconds for part in parts),
        metrics={m: together(part.metrics.get(m, {}) for part in parts) for m in metrics},
        docs=parts[0].docs,
        seeds=tuple(part.seed for part in parts),
        preset=parts[0].preset,
        folders=tuple(part.folder for part in parts),
    )


def _renamed(record: Record, seed: int) -> Record:
    """Give a record an id that no other seed's record has; its problem stays the same."""
    problem = document(record["id"])
    repeat = record["id"].removeprefix(f"{problem}/")
    return cast(Record, {**record, "id": f"{problem}/{seed}.{repeat}"})


def warn_of_versions(parts: Sequence[Part]) -> None:
    """Warn where runs were made with different versions of a library."""
    found: dict[str, set[str]] = defaultdict(set)
    for part in parts:
        for record in part.records:
            for library, version in record["versions"].items():
                found[library].add(str(version))
    mixed = [
        f"{library} {', '.join(sorted(versions))}"
        for library, versions in sorted(found.items())
        if len(versions) > 1
    ]
    if mixed:
        warnings.warn(
            f"The runs were made with different versions: {'; '.join(mixed)}. Differences between "
            "them may come from that.",
            stacklevel=3,
        )
