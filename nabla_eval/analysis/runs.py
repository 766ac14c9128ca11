"""One run as the analysis sees it, and short names that tell several of them apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeAlias

from nabla_eval.analysis.frames import frames_of
from nabla_eval.analysis.intervals import same_problems
from nabla_eval.errors import DataError
from nabla_eval.traces.schema import Record, document

if TYPE_CHECKING:
    from pandas import DataFrame

Scores: TypeAlias = Mapping[str, Sequence[float]]  # problem -> the score of each of its runs


@dataclass(frozen=True, eq=False)
class Run:
    """The answers of one method with one set of options on the problems of one task.

    Several seeds of one configuration are one run: further repeats of the same problems.
    """

    name: str  # as tables call it
    task: str  # as lm-eval names it
    method: str
    config: Mapping[str, Any]  # flat options, defaults included
    config_hash: str
    models: Mapping[str, Any]  # names and fingerprints of the policy and the reward model
    keys: Mapping[str, str]  # problem -> key of its randomness, which differs between seeds
    versions: Mapping[str, Sequence[str]]  # library -> those that its records name
    answers: DataFrame  # see `frames`
    candidates: DataFrame
    scores: Scores  # problem -> a score of each seed: the mean over the repeats it graded
    seconds: float  # wall-clock time of the whole run, NaN where nobody noted it
    metrics: Mapping[str, Scores] = field(default_factory=dict)  # the task's other numbers
    docs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # lm-eval's doc, target
    items: Mapping[str, str] = field(default_factory=dict)  # problem -> hash of what it asks
    grader: str = ""  # who said which answers are right; "" where the task does not say
    filters: tuple[str, ...] = ()  # the task's, the one that scores are by first
    seeds: tuple[int | None, ...] = ()
    preset: str | None = None
    folders: tuple[Path, ...] = ()

    @classmethod
    def of(
        cls, name: str, records: Sequence[Record], scores: Scores, seconds: float,
        graded: int | None = None, **rest: Any,
    ) -> Run:  # fmt: skip
        """Make a run of its trace records; `rest` are further fields.

        A score is the mean over the first `graded` answers to its problem; None: over all.

        Raises `DataError` when the records mix methods, options or models, answer one item twice,
        or are not of the problems that the scores are of: their table would be wrong.
        """
        if not records:
            raise DataError(f"Run {name!r} has no records. Was trace_dir= given?")
        for what in ("method", "config_hash", "models"):
            values = {str(identity(r["models"]) if what == "models" else r[what]) for r in records}
            if len(values) > 1:
                raise DataError(
                    f"Run {name!r} mixes {len(values)} values of {what}: "
                    f"{', '.join(sorted(values))}. Give each run a trace_dir of its own."
                )
        ids = Counter(record["id"] for record in records)
        twice = next((one for one, count in ids.items() if count > 1), None)
        if twice is not None:
            raise DataError(f"Run {name!r} answers {twice!r} twice. Remove its trace, run again.")
        same_problems(scores, dict.fromkeys(map(document, ids)))
        first, (seed, *_) = records[0], rest.get("seeds") or (None,)
        keys = {document(record["id"]): record["key"] for record in reversed(records)}
        return cls(
            name, task_of(first["id"]), first["method"], first["config"], first["config_hash"],
            first["models"], keys, merged_versions(r["versions"] for r in records),
            *frames_of(records, scores, seed, graded), scores, seconds, **rest,
        )  # fmt: skip

    @property
    def n(self) -> int | None:
        """Rollouts that the method may spend on a problem; None for a method without that option.

        Greedy decoding has no option n and is one rollout: it too is None.
        """
        n = self.config.get("n")
        return n if type(n) is int and n > 0 else None

    @property
    def repeats(self) -> int:
        """Answers per problem, over all seeds."""
        return len(self.answers) // len(self.scores)

    @property
    def is_twin(self) -> bool:
        """Tell whether this is the zeroth-order twin of a gradient method."""
        return self.config.get("steps") == 0


def merged_versions(several: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Return the sorted versions of each library; a value may be one version or a tuple of them."""
    found: dict[str, set[str]] = defaultdict(set)
    for versions in several:
        for library, version in versions.items():
            found[library] |= set(version) if isinstance(version, tuple) else {str(version)}
    return {library: tuple(sorted(values)) for library, values in found.items()}


def task_of(identifier: str) -> str:
    """Return the task part of a problem id task/document/repeat."""
    return document(identifier).partition("/")[0]


def identity(models: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells pairs of models apart: fingerprints, and names only where there are none.

    A name may be the path of a folder, which differs between machines.
    """
    found = {}
    for role in ("policy", "reward"):
        if role in models:
            found[role] = models.get(f"{role}_hash", models[role])
    rest = {k: v for k, v in models.items() if k.removesuffix("_hash") not in ("policy", "reward")}
    return {**found, **rest}


def names(runs: Sequence[Run]) -> list[str]:
    """Return one name per run; runs of one configuration on several tasks share theirs.

    Method, preset and n are always named; another option only where its value is not that of most
    runs of the same method and preset; a model only where the runs have several.
    """
    groups: dict[tuple[str, str | None], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.method, run.preset].append(run)
    usual = {key: _usual([run.config for run in group]) for key, group in groups.items()}
    roles = [
        role
        for role in ("policy", "reward", "dtype")
        if len({str(identity(r.models).get(role)) for r in runs if role in r.models}) > 1
    ]
    return [_name(run, usual[run.method, run.preset], roles) for run in runs]


def _usual(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the value of each option that more than half of the distinct configurations have."""
    distinct = list({str(sorted(config.items())): config for config in configs}.values())
    found = {}
    for option in sorted(set().union(*distinct)):
        values = [config.get(option) for config in distinct]
        if option == "steps":  # twins are named as such
            values = [value for value in values if value != 0] or [0]
        value, count = Counter(map(repr, values)).most_common(1)[0]
        if 2 * count > len(values):
            found[option] = next(v for v in values if repr(v) == value)
        elif None in values:  # an option that is off needs no word
            found[option] = None
    return found


def _name(run: Run, usual: Mapping[str, Any], roles: Sequence[str]) -> str:
    parts = [run.method + (" twin" if run.is_twin else "")]
    if run.preset is not None and run.preset != "default":
        parts.append(run.preset)
    if "n" in run.config:
        parts.append(f"n={run.config['n']}")
    for option, value in run.config.items():
        if option == "n" or (run.is_twin and option == "steps"):
            continue
        if option not in usual or usual[option] != value:
            parts.append(f"{option}={option_text(value)}")
    parts += [f"{role}={model_name(run.models[role])}" for role in roles if role in run.models]
    return " ".join(parts)


def option_text(value: Any) -> str:
    """Return an option's value as one writes it in `--model_args`."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def model_name(name: Any) -> str:
    """Return a hub id as it is, a folder by its last part."""
    text = str(name)
    return PurePath(text).name if PurePath(text).is_absolute() else text
