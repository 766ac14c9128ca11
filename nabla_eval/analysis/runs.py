"""One run as the analysis sees it: the records of one method and the scores of its answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nabla_eval.analysis.accuracy import Scores
from nabla_eval.analysis.intervals import same_problems
from nabla_eval.errors import DataError
from nabla_eval.traces.schema import Record, document


@dataclass(frozen=True)
class Run:
    """Records and scores of one method with one set of options on the problems of one task.

    Several seeds of one configuration are one run: further repeats of the same problems. Raises
    `DataError` when the records mix methods, options or models, answer one item twice, or are not
    of the problems that the scores are of: a table made of such a run would be wrong.
    """

    name: str  # as tables call it
    records: Sequence[Record]
    scores: Scores  # problem -> score of each run
    seconds: float  # wall-clock time of the whole run, NaN where nobody noted it
    metrics: Mapping[str, Scores] = field(default_factory=dict)  # the task's other numbers
    docs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # lm-eval's doc, target
    seeds: tuple[int | None, ...] = ()
    preset: str | None = None
    folders: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not self.records:
            raise DataError(f"Run {self.name!r} has no records. Was trace_dir= given?")
        for what in ("method", "config_hash"):
            self._refuse_mixture(what, {str(record[what]) for record in self.records})
        self._refuse_mixture("models", {str(identity(r["models"])) for r in self.records})
        ids = Counter(record["id"] for record in self.records)
        twice = next((name for name, count in ids.items() if count > 1), None)
        if twice is not None:
            raise DataError(
                f"Run {self.name!r} answers {twice!r} twice. Remove its trace, run again."
            )
        same_problems(self.scores, dict.fromkeys(map(document, ids)))

    def _refuse_mixture(self, what: str, values: set[str]) -> None:
        if len(values) > 1:
            raise DataError(
                f"Run {self.name!r} mixes {len(values)} values of {what}: "
                f"{', '.join(sorted(values))}. Give each run a trace_dir of its own."
            )

    @property
    def method(self) -> str:
        """Registered name of the method."""
        return self.records[0]["method"]

    @property
    def config(self) -> dict[str, Any]:
        """Flat options, defaults included."""
        return self.records[0]["config"]

    @property
    def models(self) -> dict[str, Any]:
        """Names and fingerprints of the policy and the reward model."""
        return self.records[0]["models"]

    @property
    def task(self) -> str:
        """The task, as lm-eval names it."""
        return task_of(self.records[0]["id"])

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
        return len(self.records) // len(self.scores)

    @property
    def is_twin(self) -> bool:
        """Whether this is the zeroth-order twin of a gradient method."""
        return is_twin(self.config)


def is_twin(config: Mapping[str, Any]) -> bool:
    """Whether options describe a gradient method without its gradient steps."""
    return config.get("steps") == 0


def task_of(identifier: str) -> str:
    """The task part of a problem id task/document/repeat."""
    return document(identifier).partition("/")[0]


def identity(models: Mapping[str, Any]) -> dict[str, Any]:
    """What tells pairs of models apart: fingerprints, and names only where there are none.

    A name may be the path of a folder, which differs between machines.
    """
    found = {}
    for role in ("policy", "reward"):
        if role in models:
            found[role] = models.get(f"{role}_hash", models[role])
    rest = {k: v for k, v in models.items() if k.removesuffix("_hash") not in ("policy", "reward")}
    return {**found, **rest}
