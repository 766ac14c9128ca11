"""The rows of the standard tables, as plain numbers: these fields are the JSON that users read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from nabla_eval.analysis import rejection as rejections
from nabla_eval.analysis.accuracy import accuracy, difference, pass_at
from nabla_eval.analysis.answers import majority_accuracy
from nabla_eval.analysis.cost import correct_per_cost, costs
from nabla_eval.analysis.intervals import Estimate
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.significance import holm
from nabla_eval.errors import DataError
from nabla_eval.traces.keep import whole
from nabla_eval.traces.schema import CandidateRecord, Record


@dataclass(frozen=True)
class AccuracyRow:
    """Accuracy and cost of one run; costs are means per problem, `seconds` is the whole run's."""

    run: str
    task: str
    method: str
    n: int | None
    problems: int
    repeats: int  # answers to each problem, over all seeds
    seeds: tuple[int | None, ...]
    accuracy: float
    se: float
    ci95: tuple[float, float]
    majority: float | None  # maj@repeats; None where single answers are not known
    pass_at: dict[str, float]  # k -> pass@k, unbiased, for k = 1, 2, 4, ... up to repeats
    model_calls: float
    model_calls_ci95: tuple[float, float]
    generated_tokens: float
    gradient_passes: float
    scorings: float
    prefix_scorings: float
    prefix_gradients: float
    flops: float
    seconds: float
    correct_per_100_calls: float
    correct_per_100_calls_ci95: tuple[float, float]

    @classmethod
    def of(cls, run: Run) -> AccuracyRow:
        """The row of a run."""
        right, spent = accuracy(run.scores), costs(run.records)
        per_call = correct_per_cost(run.scores, run.records)
        most = majority_accuracy(run)
        return cls(
            run=run.name,
            task=run.task,
            method=run.method,
            n=run.n,
            problems=right.clusters,
            repeats=run.repeats,
            seeds=run.seeds,
            majority=None if most is None else most.value,
            pass_at=_pass_at(run),
            accuracy=right.value,
            se=right.se,
            ci95=right.interval,
            model_calls=spent["model_calls"].value,
            model_calls_ci95=spent["model_calls"].interval,
            generated_tokens=spent["generated_tokens"].value,
            gradient_passes=spent["gradient_passes"].value,
            scorings=spent["scorings"].value,
            prefix_scorings=spent["prefix_scorings"].value,
            prefix_gradients=spent["prefix_gradients"].value,
            flops=spent["flops"].value,
            seconds=run.seconds,
            correct_per_100_calls=100 * per_call.value,
            correct_per_100_calls_ci95=(100 * per_call.low, 100 * per_call.high),
        )


def _pass_at(run: Run) -> dict[str, float]:
    """pass@k for powers of two; nothing where answers are graded in parts."""
    if run.repeats < 2:
        return {}
    sizes = [2**i for i in range(run.repeats.bit_length()) if 2**i <= run.repeats]
    try:
        return {str(k): pass_at(run.scores, run.repeats, k).value for k in sizes}
    except DataError:
        return {}


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
    p: float | None = None  # exact sign-flip test (McNemar's for single right-or-wrong runs)
    p_holm: float | None = None  # the same, corrected for all tests of its table
    task: str = ""
    role: str = ""  # why b is compared with: twin, best-of-N, ...

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero, also after the correction for several tests."""
        apart = self.ci95[0] > 0 or self.ci95[1] < 0
        return apart and (self.p_holm is None or self.p_holm <= 0.05)

    @classmethod
    def accuracy(cls, a: Run, b: Run, role: str = "") -> DifferenceRow:
        """Difference in accuracy, paired by problem."""
        found = difference(a.scores, b.scores)
        row = cls._of("accuracy", a, b, found.estimate, role)
        return replace(row, wins=found.wins, losses=found.losses, p=found.p)

    @classmethod
    def rejection(cls, a: Run, b: Run, role: str = "") -> Iterator[DifferenceRow]:
        """Difference in the rejection rate, and in that of first candidates."""
        all_a, all_b = rejections.verdicts(a.records), rejections.verdicts(b.records)
        first_a = [(problem, found[:1]) for problem, found in all_a]
        first_b = [(problem, found[:1]) for problem, found in all_b]
        yield cls._of("rejection", a, b, rejections.rejection_difference(all_a, all_b), role)
        first = rejections.rejection_difference(first_a, first_b)
        yield cls._of("first rejection", a, b, first, role)

    @classmethod
    def _of(cls, measure: str, a: Run, b: Run, found: Estimate, role: str) -> DifferenceRow:
        return cls(
            measure=measure,
            a=a.name,
            b=b.name,
            problems=found.clusters,
            difference=found.value,
            ci95=found.interval,
            task=a.task,
            role=role,
        )


def holm_corrected(rows: Sequence[DifferenceRow]) -> list[DifferenceRow]:
    """The rows with their p values corrected for all tests among them."""
    adjusted = holm([math.nan if row.p is None else row.p for row in rows])
    return [
        row if row.p is None else replace(row, p_holm=p)
        for row, p in zip(rows, adjusted, strict=True)
    ]


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
    found = [(record, i) for record in records for i in range(len(record["candidates"]))]
    verdicts = [record["candidates"][i]["verdict"] for record, i in found]
    firsts = [verdicts.index(v) for v in ("accepted", "rejected", "tie") if v in verdicts]
    others = [i for i in range(len(found)) if i not in firsts]
    others.sort(key=lambda i: verdicts[i] != "accepted")  # stable: file order within
    chosen = [found[i] for i in (firsts + others)[:count]]
    return [RevisionRow.of(record, whole(record)["candidates"][i]) for record, i in chosen]
