"""Runs from folders: seeds of one configuration pooled, items checked, every run named."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nabla_eval.analysis.folders import find, read_folder
from nabla_eval.analysis.frames import Frames, means
from nabla_eval.analysis.runs import Run, Scores, identity, merged_versions, names
from nabla_eval.errors import DataError

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
    runs = _named([_read(paths, metric, tasks, progress)], common)[0]
    return sorted(
        runs, key=lambda r: (r.task, r.method, r.preset or "", r.is_twin, r.n or 0, r.name)
    )


def load_pair(
    a: str | Path,
    b: str | Path,
    *,
    metric: str | None = None,
    common: bool = False,
    tasks: Sequence[str] = (),
) -> tuple[list[Run], list[Run]]:
    """The runs of two folders for a comparison, not pooled with each other; see `load`."""
    sides = [_read([path], metric, tasks, iter) for path in (a, b)]
    shared = set.intersection(*({run.task for run in side} for side in sides))
    first, second = _named([[r for r in side if r.task in shared] for side in sides], common)
    return first, second


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
    - `score`: of this answer; NaN where lm-eval kept only the mean over a problem's repeats, or did
      not grade this one
    - `mean_score`: of the answers that lm-eval graded together, this one among them; NaN where it
      did not grade this one (its default filter keeps the first of a task's repeats)
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
    - `record`: where the whole trace line is; `traces.index.whole` reads it

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
        of_answer = {**of_run, "method": run.method, "preset": run.preset, "n": run.n}
        metrics = {
            f"metric.{name}": run.answers["problem"].map(means(scores))
            for name, scores in run.metrics.items()
        }
        options = {f"option.{name}": value for name, value in run.config.items()}
        answers.append(_beside(of_answer, run.answers.assign(**metrics), options))
        candidates.append(_beside(of_run, run.candidates, {}))
    judged = [each for each in candidates if len(each)] or candidates  # empty ones have no types
    return Frames(concat(answers, ignore_index=True), concat(judged, ignore_index=True))


def _beside(before: Mapping[str, Any], frame: DataFrame, after: Mapping[str, Any]) -> DataFrame:
    """Return a frame between columns that have one value each, which may be of any type."""
    from pandas import Series, concat

    def filled(name: str, value: Any) -> Series:
        column = Series([value] * len(frame), index=frame.index, name=name, dtype=object)
        return column.infer_objects()

    parts = [[filled(*item) for item in values.items()] for values in (before, after)]
    return concat([*parts[0], frame, *parts[1]], axis="columns")


def _read(
    paths: Iterable[str | Path],
    metric: str | None,
    tasks: Sequence[str],
    progress: Callable[[Iterable[Path]], Iterable[Path]],
) -> list[Run]:
    """Return a run for each task of each run folder; raise `DataError` where there is none."""
    homes = list(dict.fromkeys(home.resolve() for path in paths for home in find(path)))
    runs = [run for home in progress(homes) for run in read_folder(home, metric)]
    runs = [run for run in runs if not tasks or run.task in tasks]
    if not runs:
        wanted = f" of {', '.join(tasks)}" if tasks else ""
        raise DataError(
            f"None of {len(homes)} run folders holds a finished run{wanted}. Give folders that "
            "hold both traces and samples."
        )
    return runs


def _named(sides: Sequence[Sequence[Run]], common: bool) -> list[list[Run]]:
    """Return the runs of each side by task, cut to the same items, pooled and named together."""
    pooled: list[list[Run]] = [[] for _ in sides]
    for task in sorted({run.task for side in sides for run in side}):
        cut = iter(_same_items([r for side in sides for r in side if r.task == task], common))
        for found, side in zip(pooled, sides, strict=True):
            found += _pooled([next(cut) for run in side if run.task == task])
    together = [run for side in pooled for run in side]
    _warn_of_versions(together)
    named = iter(names(together))
    return [[replace(run, name=next(named)) for run in side] for side in pooled]


def _same_items(runs: Sequence[Run], common: bool) -> list[Run]:
    """Return the runs of one task, refused or cut to the common items where they differ.

    Raises `DataError` also where they were graded by different rules.
    """
    task = runs[0].task
    graders = {run.grader: run.folders[0].name for run in runs}
    if len(graders) > 1:
        told = ", ".join(f"{name or 'an unnamed grader'} ({at})" for name, at in graders.items())
        raise DataError(
            f"The runs of {task} were graded by different rules: {told}. Compare runs of "
            "one grader; a run is graded again by the same command with another --grader and "
            "--output."
        )
    shared = set.intersection(*(set(run.items.items()) for run in runs))
    if all(len(run.items) == len(shared) for run in runs):
        return list(runs)
    sizes = ", ".join(f"{run.folders[0].name} has {len(run.items)}" for run in runs[:5])
    more = f" and {len(runs) - 5} more" if len(runs) > 5 else ""
    what = f"The runs of {task} do not hold the same problems: {sizes}{more}"
    if not common:
        raise DataError(
            f"{what}; {len(shared)} are common to all. Give --common to use these, or runs with "
            "the same --limit."
        )
    if not shared:
        raise DataError(f"{what}; none is common to all. Give runs on the same problems.")
    warnings.warn(f"{what}; the {len(shared)} common ones are used.", stacklevel=4)
    return [_cut(run, dict(shared).keys()) for run in runs]


def _cut(run: Run, kept: Collection[str]) -> Run:
    """Return a run with some of its problems only."""

    def rows(frame: DataFrame) -> DataFrame:
        return frame[frame["problem"].isin(kept)].reset_index(drop=True)

    def only(table: Mapping[str, Any]) -> dict[str, Any]:
        return {problem: value for problem, value in table.items() if problem in kept}

    return replace(
        run,
        answers=rows(run.answers),
        candidates=rows(run.candidates),
        scores=only(run.scores),
        metrics={name: only(values) for name, values in run.metrics.items()},
        docs=only(run.docs),
        items=only(run.items),
        keys=only(run.keys),
        seconds=float("nan"),  # it was spent on all of them
    )


def _pooled(runs: Sequence[Run]) -> list[Run]:
    """Return the runs of one task, the seeds of one configuration together."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        group = groups[str((run.method, run.config_hash, sorted(identity(run.models).items())))]
        twice = next((other for other in group if other.keys == run.keys), None)
        if twice is None:
            group.append(run)
        else:  # the same draws twice are no further evidence
            warnings.warn(
                f"{run.folders[0]} repeats the run in {twice.folders[0]} (same options, same "
                "seed), so it is left out.",
                stacklevel=5,
            )
    return [_pool(group) for group in groups.values()]


def _pool(runs: Sequence[Run]) -> Run:
    """Return several seeds as one run with more answers to each problem."""
    from pandas import concat

    def together(tables: Iterable[Scores]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = defaultdict(list)
        for table in tables:
            for problem, values in table.items():
                found[problem] += values
        return dict(found)

    def rows(name: str) -> DataFrame:
        frames = [_of_seed(i, getattr(run, name)) for i, run in enumerate(runs)]
        return concat(frames, ignore_index=True)

    metrics = sorted(set().union(*(run.metrics for run in runs)))
    return replace(
        runs[0],
        answers=rows("answers"),
        candidates=rows("candidates"),
        versions=merged_versions(run.versions for run in runs),
        scores=together(run.scores for run in runs),
        seconds=sum(run.seconds for run in runs),
        metrics={m: together(run.metrics.get(m, {}) for run in runs) for m in metrics},
        seeds=tuple(seed for run in runs for seed in run.seeds),
        folders=tuple(folder for run in runs for folder in run.folders),
    )


def _of_seed(seed: int, frame: DataFrame) -> DataFrame:
    """Return rows whose answers have ids that no other seed's have."""
    from pandas import Series

    ids = [f"{answer}.{seed}" for answer in frame["answer"]]
    return frame.assign(answer=Series(ids, dtype=object, index=frame.index))


def _warn_of_versions(runs: Sequence[Run]) -> None:
    """Warn where runs were made with different versions of a library."""
    mixed = [
        f"{library} {', '.join(versions)}"
        for library, versions in sorted(merged_versions(run.versions for run in runs).items())
        if len(versions) > 1
    ]
    if mixed:
        warnings.warn(
            f"The runs were made with different versions: {'; '.join(mixed)}. Differences between "
            "them may come from that.",
            stacklevel=4,
        )
