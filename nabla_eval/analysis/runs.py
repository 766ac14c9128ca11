"""One run as the analysis sees it: the records of one method and the scores of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nabla_eval.analysis.accuracy import Scores
from nabla_eval.analysis.intervals import same_problems
from nabla_eval.errors import DataError
from nabla_eval.traces.schema import Record, document


@dataclass(frozen=True)
class Run:
    """Records and scores of one method with one set of options on one set of problems.

    Raises `DataError` when the records mix methods, options or models, answer one item twice, or
    are not of the problems that the scores are of: a table made of such a run would be wrong.
    """

    name: str  # as tables call it
    records: Sequence[Record]
    scores: Scores  # problem -> score of each run
    seconds: float  # wall-clock time of the whole run

    def __post_init__(self) -> None:
        if not self.records:
            raise DataError(f"Run {self.name!r} has no records. Was trace_dir= given?")
        for what in ("method", "config_hash", "models"):
            values = {str(record[what]) for record in self.records}
            if len(values) > 1:
                raise DataError(
                    f"Run {self.name!r} mixes {len(values)} values of {what}: "
                    f"{', '.join(sorted(values))}. Give each run a trace_dir of its own."
                )
        ids = [record["id"] for record in self.records]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise DataError(
                f"Run {self.name!r} answers {twice!r} twice. Remove its trace, run again."
            )
        same_problems(self.scores, dict.fromkeys(map(document, ids)))

    @property
    def method(self) -> str:
        """Registered name of the method."""
        return self.records[0]["method"]

    @property
    def config(self) -> dict[str, Any]:
        """Flat options, defaults included."""
        return self.records[0]["config"]
