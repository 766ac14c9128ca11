"""The rows of the standard tables, as plain numbers: these fields are the JSON that users read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nabla_eval.analysis import rejection as rejections
from nabla_eval.analysis.accuracy import accuracy, difference
from nabla_eval.analysis.cost import correct_per_cost, costs
from nabla_eval.analysis.intervals import Estimate
from nabla_eval.analysis.rejection import Rate
from nabla_eval.analysis.runs import Run
from nabla_eval.traces.schema import CandidateRecord, Record


@dataclass(frozen=True)
class AccuracyRow:
    """Accuracy and cost of one run; costs are means per problem, `seconds` is the whole run's."""

    run: str
    method: str
    n: int | None
    problems: int
    accuracy: float
    se: float
    ci95: tuple[float, float]
    model_calls: float
    model_calls_ci95: tuple[float, float]
    generated_tokens: float
    gradient_passes: float
    scorings: float
    flops: float
    seconds: float
    correct_per_100_calls: float
    correct_per_100_calls_ci95: tuple[float, float]

    @classmethod
    def of(cls, run: Run) -> AccuracyRow:
        """The row of a run."""
        right, spent = accuracy(run.scores), costs(run.records)
        per_call = correct_per_cost(run.scores, run.records)
        return cls(
            run=run.name,
            method=run.method,
            n=run.config.get("n"),
            problems=right.clusters,
            accuracy=right.value,
            se=right.se,
            ci95=right.interval,
            model_calls=spent["model_calls"].value,
            model_calls_ci95=spent["model_calls"].interval,
            generated_tokens=spent["generated_tokens"].value,
            gradient_passes=spent["gradient_passes"].value,
            scorings=spent["scorings"].value,
            flops=spent["flops"].value,
            seconds=run.seconds,
            correct_per_100_calls=100 * per_call.value,
            correct_per_100_calls_ci95=(100 * per_call.low, 100 * per_call.high),
        )


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
        return cls(run.name, run.config.get("n"), *_measured(found.overall), by_index)

    @classmethod
    def controls(cls, drafts: Run) -> list[RejectionRow]:
        """What i.i.d. draws do: measured on a best-of-N run's drafts, and in closed form."""
        n = int(drafts.config["n"])
        process = rejections.best_of_n_process(rejections.draft_rewards(drafts.records))
        rows = [
            cls.measured(f"{drafts.name} drafts", n, process.with_first),
            cls._exact(f"1 - H_{n}/{n}", n, rejections.first_accepted_baseline(n)),
        ]
        if n > 1:
            exact = rejections.challengers_baseline(n)
            rows.insert(1, cls.measured("... challengers only", n, process.challengers))
            rows.append(cls._exact(f"1 - (H_{n} - 1)/{n - 1}", n, exact))
        return rows

    @classmethod
    def _exact(cls, name: str, n: int, rate: object) -> RejectionRow:
        return cls(name, n, None, None, None, None, float(rate), None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DifferenceRow:
    """a - b on the same problems: in accuracy, or in a rejection rate."""

    measure: str
    a: str
    b: str
    problems: int
    difference: float
    ci95: tuple[float, float]
    wins: int | None = None  # problems on which a scored higher
    losses: int | None = None

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero."""
        return self.ci95[0] > 0 or self.ci95[1] < 0

    @classmethod
    def accuracy(cls, a: Run, b: Run) -> DifferenceRow:
        """Difference in accuracy, paired by problem."""
        found = difference(a.scores, b.scores)
        return cls._of("accuracy", a, b, found.estimate, found.wins, found.losses)

    @classmethod
    def rejection(cls, a: Run, b: Run) -> Iterator[DifferenceRow]:
        """Difference in the rejection rate, and in that of first candidates."""
        all_a, all_b = rejections.verdicts(a.records), rejections.verdicts(b.records)
        first_a = [(problem, found[:1]) for problem, found in all_a]
        first_b = [(problem, found[:1]) for problem, found in all_b]
        yield cls._of("rejection", a, b, rejections.rejection_difference(all_a, all_b))
        yield cls._of("first rejection", a, b, rejections.rejection_difference(first_a, first_b))

    @classmethod
    def _of(
        cls,
        measure: str,
        a: Run,
        b: Run,
        estimate: Estimate,
        wins: int | None = None,
        losses: int | None = None,
    ) -> DifferenceRow:
        return cls(
            measure,
            a.name,
            b.name,
            estimate.clusters,
            estimate.value,
            estimate.interval,
            wins,
            losses,
        )


@dataclass(frozen=True)
class RevisionRow:
    """One judged revision in its context."""

    problem: str
    prompt: str
    context: str  # text before the token
    old: str
    new: str
    old_reward: float
    new_reward: float
    verdict: str
    response: str  # of the candidate
    position: int
    sweep: int

    @classmethod
    def of(cls, record: Record, candidate: CandidateRecord) -> RevisionRow:
        """The row of one candidate."""
        return cls(
            problem=record["id"],
            prompt=record["prompt"],
            context=candidate["context"],
            old=candidate["old_text"],
            new=candidate["new_text"],
            old_reward=candidate["old_reward"],
            new_reward=candidate["new_reward"],
            verdict=candidate["verdict"],
            response=candidate["text"],
            position=candidate["position"],
            sweep=candidate["sweep"],
        )


def examples(records: Iterable[Record], count: int = 3) -> list[RevisionRow]:
    """Revisions to show: the first of each verdict, then further accepted ones, in file order.

    Not chosen by merit: only the order of the problems decides.
    """
    found = [RevisionRow.of(record, c) for record in records for c in record["candidates"]]
    verdicts = [row.verdict for row in found]
    firsts = [verdicts.index(v) for v in ("accepted", "rejected", "tie") if v in verdicts]
    others = [i for i in range(len(found)) if i not in firsts]
    others.sort(key=lambda i: verdicts[i] != "accepted")  # stable: file order within
    return [found[i] for i in (firsts + others)[:count]]


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
