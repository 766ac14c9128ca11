"""The rows of rejection tables: a run's rate, and the controls that it stands beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nabla_eval.analysis import rejection as rejections
from nabla_eval.analysis.rejection import Rate
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.twins import drafts_of, twin_of


@dataclass(frozen=True)
class IndexRow:
    """Rejection of the k-th candidates of all problems; `index` counts from 1."""

    index: int
    candidates: int
    rejected: int
    ties: int
    rate: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class RejectionRow:
    """Rejection rate of one run, of drafts under the acceptance rule, or in closed form."""

    run: str
    n: int | None
    problems: int | None
    candidates: int | None
    rejected: int | None  # ties included
    ties: int | None
    rate: float
    ci95: tuple[float, float] | None  # None for a closed form
    by_index: tuple[IndexRow, ...] = ()
    method: str | None = None
    task: str = ""
    baseline_h: float | None = None  # 1 - H_N/N: the first of N i.i.d. draws counts as accepted
    baseline_challengers: float | None = None  # 1 - (H_N - 1)/(N - 1): without the first draw
    baseline_run: str | None = None  # whose drafts were measured
    baseline_measured: float | None = None  # its drafts under the acceptance rule, first counted
    baseline_measured_challengers: float | None = None
    twin: str | None = None
    twin_rate: float | None = None
    twin_ci95: tuple[float, float] | None = None
    minus_twin: float | None = None  # rate - twin_rate, paired by problem
    minus_twin_ci95: tuple[float, float] | None = None

    @property
    def first(self) -> IndexRow | None:
        """The first candidates' row."""
        return self.by_index[0] if self.by_index else None

    @classmethod
    def measured(cls, name: str, n: int | None, rate: Rate) -> RejectionRow:
        """The row of a measured rate."""
        return cls(name, n, *_measured(rate))

    @classmethod
    def of(cls, run: Run) -> RejectionRow:
        """The row of a run of a method that judges candidates."""
        found = rejections.rejection(rejections.verdicts(run.records))
        by_index = tuple(
            IndexRow(i, *_measured(rate)[1:]) for i, rate in enumerate(found.by_index, start=1)
        )
        row = cls(run.name, run.n, *_measured(found.overall), by_index)
        n = run.n or 0
        return replace(
            row,
            method=run.method,
            task=run.task,
            baseline_h=float(rejections.first_accepted_baseline(n)) if n else None,
            baseline_challengers=float(rejections.challengers_baseline(n)) if n > 1 else None,
        )

    def beside(self, run: Run, runs: Sequence[Run]) -> RejectionRow:
        """This row of `run` with its controls among `runs`: the twin and i.i.d. drafts."""
        row, twin, drafts = self, twin_of(run, runs), drafts_of(run, runs)
        if drafts is not None:
            process = rejections.best_of_n_process(rejections.draft_rewards(drafts.records))
            row = replace(
                row,
                baseline_run=drafts.name,
                baseline_measured=process.with_first.estimate.value,
                baseline_measured_challengers=process.challengers.estimate.value,
            )
        if twin is not None:
            ours, theirs = rejections.verdicts(run.records), rejections.verdicts(twin.records)
            rate = rejections.rejection(theirs).overall.estimate
            apart = rejections.rejection_difference(ours, theirs)
            row = replace(
                row,
                twin=twin.name,
                twin_rate=rate.value,
                twin_ci95=rate.interval,
                minus_twin=apart.value,
                minus_twin_ci95=apart.interval,
            )
        return row

    @classmethod
    def controls(cls, drafts: Run) -> list[RejectionRow]:
        """What i.i.d. draws do: measured on a best-of-N run's drafts, and in closed form."""
        n = int(drafts.config["n"])
        process = rejections.best_of_n_process(rejections.draft_rewards(drafts.records))
        rows = [
            cls.measured(f"{drafts.name} drafts", n, process.with_first),
            cls.exact(f"1 - H_{n}/{n}", n, rejections.first_accepted_baseline(n)),
        ]
        if n > 1:
            exact = rejections.challengers_baseline(n)
            rows.insert(1, cls.measured("... challengers only", n, process.challengers))
            rows.append(cls.exact(f"1 - (H_{n} - 1)/{n - 1}", n, exact))
        return rows

    @classmethod
    def exact(cls, name: str, n: int, rate: object) -> RejectionRow:
        """The row of a closed form."""
        return cls(name, n, None, None, None, None, float(rate), None)  # type: ignore[arg-type]


def _measured(
    rate: Rate,
) -> tuple[int, int, int, int, float, tuple[float, float]]:
    estimate = rate.estimate
    return (
        estimate.clusters,
        rate.judged,
        rate.rejected,
        rate.ties,
        estimate.value,
        estimate.interval,
    )
