"""How often do the 95 % intervals hold the truth? Simulated data whose truth is known.

Right-or-wrong answers are beta-binomial: problems differ in how hard they are, and the answers to
one problem are alike by ICC, the intraclass correlation. Draws are keyed, so the page repeats.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame

from nabla_eval.analysis import mean_interval
from nabla_eval.analysis.accuracy import difference
from nabla_eval.analysis.intervals import mean, rate_difference, share, skewed_mean
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.scaling import at_equal_cost
from nabla_eval.randomness import Key

Floats: TypeAlias = NDArray[np.float64]
KEY = Key.root(16)
SIZES, REPEATS, ICCS = (10, 30), (1, 4), (0.2, 0.6)
SHARES = (0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98)
# Accuracy of a and of b, and the share of b's answers that are a's own.
PAIRS = (
    (0.02, 0.02, 0.0), (0.98, 0.98, 0.9), (0.98, 0.02, 0.0), (0.99, 0.9, 0.0), (0.95, 0.9, 0.5),
    (0.9, 0.7, 0.0), (0.5, 0.5, 0.0), (0.5, 0.5, 0.9), (0.6, 0.5, 0.5),
)  # fmt: skip
# Accuracy and mean calls of the rival's runs; ours is as right as the rival is at our calls.
LADDERS = (
    ("falls with more compute", ((0.70, 20), (0.84, 40), (0.76, 80)), (0.84, 60)),
    ("three alike", ((0.7, 20), (0.7, 40), (0.7, 80)), (0.7, 50)),
    ("saturates", ((0.6, 20), (0.75, 40), (0.78, 80), (0.78, 160)), (0.78, 100)),
    ("concave", ((0.5, 20), (0.65, 40), (0.75, 80)), (0.575, 30)),
    ("two runs", ((0.4, 20), (0.8, 40)), (0.6, 30)),
)
SPREADS = (0.5, 1.0, 1.5)


def answers(key: Key, count: int, n: int, k: int, p: float, icc: float) -> Floats:
    """Right (1) and wrong (0) answers, `[count, n, k]`, drawn as balls from Polya's urns."""
    urn = 1 / icc - 1
    draws = key.uniforms(0, count * n * k).reshape(count, n, k)
    right = np.zeros((count, n, k))
    for j in range(k):
        chance = (urn * p + right[..., :j].sum(axis=-1)) / (urn + j)
        right[..., j] = draws[..., j] < chance
    return right


def covers(low: float, high: float, truth: float) -> bool:
    """Whether an interval holds the truth, whose last bit may be rounded."""
    return low - 1e-12 <= truth <= high + 1e-12


@dataclass(frozen=True)
class Cell:
    """What one setting came to: how often Student's t interval covers, and how often ours."""

    setting: tuple[Any, ...]
    t: float
    ours: float


def of_accuracy(count: int) -> Iterator[Cell]:
    """Mean accuracy: n problems, k answers each."""
    for n in SIZES:
        for k in REPEATS:
            for icc in ICCS:
                for p in SHARES:
                    data = answers(
                        KEY / "accuracy" / n / k / str(icc) / str(p), count, n, k, p, icc
                    )
                    yield _accuracy_cell((n, k, icc, p), data, p)


def _accuracy_cell(setting: tuple[Any, ...], data: Floats, p: float) -> Cell:
    t = ours = 0
    for runs in data:
        plain = mean(list(runs.mean(axis=1)))
        t += covers(plain.low, plain.high, p)
        _, low, high = mean_interval(cast(Any, runs))
        ours += covers(low, high, p)
    return Cell(setting, t / len(data), ours / len(data))


def of_differences(count: int) -> Iterator[Cell]:
    """Paired difference of two accuracies, ICC .4."""
    for n in SIZES:
        for k in REPEATS:
            for a, b, copied in PAIRS:
                key = KEY / "difference" / n / k / str((a, b, copied))
                yield _difference_cell((n, k, a, b, copied), key, count)


def _difference_cell(setting: tuple[Any, ...], key: Key, count: int) -> Cell:
    n, k, a, b, copied = setting
    first, own = (answers(key / s, count, n, k, p, 0.4) for s, p in (("a", a), ("b", b)))
    # Copied answers are those of a where both are equally right, else of one easier or harder.
    kept = (key / "kept").uniforms(0, count * n * k).reshape(count, n, k) < copied
    flips = (key / "flips").uniforms(0, count * n * k).reshape(count, n, k)
    same = first * (flips < b / a) if b <= a else 1 - (1 - first) * (flips < (1 - b) / (1 - a))
    second = np.where(kept, same, own)
    t = ours = 0
    for x, y in zip(first, second, strict=True):
        plain = mean(list((x - y).mean(axis=1)))
        t += covers(plain.low, plain.high, a - b)
        found = difference(_scores(x), _scores(y)).estimate
        ours += covers(found.low, found.high, a - b)
    return Cell(setting, t / count, ours / count)


def _scores(runs: Floats) -> dict[str, list[float]]:
    return {f"{i:03}": list(row) for i, row in enumerate(runs)}


def of_rejection(count: int) -> Iterator[tuple[tuple[Any, ...], float, float]]:
    """Rejection rate of 1 to 6 candidates a problem, and the difference of two such rates."""
    for n in SIZES:
        for p, q in ((0.02, 0.02), (0.1, 0.3), (0.5, 0.5), (0.7, 0.66), (0.95, 0.9), (0.98, 0.98)):
            key = KEY / "rejection" / n / str((p, q))
            judged = (6 * key.uniforms(0, 2 * count * n)).astype(int).reshape(2, count, n) + 1
            asked = np.arange(6) < judged[..., None]
            hits = [
                (answers(key / s, count, n, 6, x, 0.2) * asked[s]).sum(axis=-1)
                for s, x in enumerate((p, q))
            ]
            rate = apart = 0
            for i in range(count):
                table = np.stack([hits[0][i], judged[0, i], hits[1][i], judged[1, i]], axis=1)
                one = share(table[:, 0], table[:, 1])
                two = rate_difference(table)
                rate += covers(one.low, one.high, p)
                apart += covers(two.low, two.high, p - q)
            yield (n, p, q), rate / count, apart / count


class FakeRun:
    """Scores and costs: all that `at_equal_cost` reads of a run."""

    def __init__(self, scores: Floats, costs: Floats) -> None:
        self.scores = _scores(scores)
        names = [f"{i:03}" for i in range(len(costs))]
        self.answers = DataFrame({"problem": names, "model_calls": np.asarray(costs, float)})


def of_equal_cost(
    count: int, sizes: Sequence[int] = (30, 150), ladders: Sequence[Any] = LADDERS
) -> Iterator[tuple[tuple[Any, ...], float, float]]:
    """Coverage and size at equal cost: hard problems fail more often and cost more, in all runs."""
    for n in sizes:
        for name, rivals, ours in ladders:
            hits = errors = trials = 0
            for trial in range(count):
                draws = (KEY / "equal" / n / name / trial).uniforms(0, n * 11).reshape(11, n)
                runs = []
                for i, (right, calls) in enumerate([*rivals, ours]):
                    chance = np.clip(right + 0.3 * (0.5 - draws[0]), 0, 1)
                    spent = calls * (0.3 + 0.4 * draws[0] - 0.5 * np.log(draws[2 * i + 2]))
                    scores = (draws[2 * i + 1] < chance).astype(float)[:, None]
                    runs.append(cast(Run, FakeRun(scores, spent)))
                found = at_equal_cost(runs[-1], runs[:-1])
                if found is not None:
                    trials += 1
                    hits += covers(*found.difference.estimate.interval, 0.0)
                    errors += found.difference.p <= 0.05
            yield (n, name), hits / trials, errors / trials


def of_costs(count: int) -> Iterator[Cell]:
    """Mean of lognormal costs with a standard deviation of log costs."""
    from scipy.special import ndtri

    for n in (10, 30, 100):
        for sigma in SPREADS:
            draws = (KEY / "cost" / n / str(sigma)).uniforms(0, count * n).reshape(count, n)
            truth, t, ours = math.exp(sigma**2 / 2), 0, 0
            for costs in np.exp(sigma * ndtri(draws)):
                plain = mean(list(costs))
                t += covers(plain.low, plain.high, truth)
                found = skewed_mean(costs)
                ours += covers(found.low, found.high, truth)
            yield Cell((n, sigma), t / count, ours / count)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers below 1 lose their leading zero."""
    lines = [head, ["---"] * len(head), *([_word(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _word(cell: Any) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def rate(value: float) -> str:
    """A coverage to three decimals."""
    return f"{value:.3f}".lstrip("0")


def accuracy_table(cells: Sequence[Cell]) -> str:
    """One row per n, k and ICC, one column per p, t / ours in a cell."""
    by_setting = {cell.setting: f"{rate(cell.t)} / {rate(cell.ours)}" for cell in cells}
    rows = [
        (n, k, icc, *(by_setting[n, k, icc, p] for p in SHARES))
        for n in SIZES
        for k in REPEATS
        for icc in ICCS
    ]
    return table(["n", "k", "ICC", *(f"p = {p:g}" for p in SHARES)], rows)


def page(count: int, say: Callable[[str], None] = print) -> str:
    """The whole page, from `count` data sets a cell."""
    say("accuracy")
    accuracies = list(of_accuracy(count))
    say("differences")
    apart = [(*cell.setting, rate(cell.t), rate(cell.ours)) for cell in of_differences(count)]
    say("rejection")
    rejected = [(*at, rate(one), rate(two)) for at, one, two in of_rejection(count)]
    say("equal cost")
    equal = [(*at, rate(hit), rate(error)) for at, hit, error in of_equal_cost(count // 4)]
    say("costs")
    costs = [(*cell.setting, rate(cell.t), rate(cell.ours)) for cell in of_costs(count // 2)]
    error = 100 * math.sqrt(0.95 * 0.05 / count)
    lowest, highest = (f(cell.ours for cell in accuracies) for f in (min, max))
    return TEXT.format(
        count=f"{count:,}", error=f"{error:.1f}", double=f"{2 * error:.1f}",
        root=f"{math.sqrt(2) * error:.1f}", lowest=rate(lowest), highest=rate(highest),
        accuracy=accuracy_table(accuracies),
        differences=table(["n", "k", "a", "b", "copied", "t", "ours"], apart),
        rejection=table(["n", "rate of a", "rate of b", "rate", "difference"], rejected),
        equal=table(["n", "rival", "coverage", "p <= .05"], equal),
        costs=table(["n", "sigma", "t", "ours"], costs),
    )  # fmt: skip


TEXT = """# How often the intervals hold the truth

Made by `bash reports/coverage/run.sh`. Nominal is .95. Every cell is {count} simulated data sets
with keyed draws, so a coverage near .95 has a standard error of {error} points; that of equal cost
rests on a quarter as many ({double} points), that of mean costs on half ({root} points).

## Accuracy and other proportions

`nabla_eval.analysis.mean_interval(values)`: Wilson's interval with the effective sample size
p (1 - p) / se², clipped to [n, n k], and Student's t quantile for n - 1 degrees of freedom; n where
no problem differs. It serves accuracy, pass@k, maj@k, failures, shares of work, AUC and the rates
below. In a cell: Student's t interval of the problems' means, which stood in its place before
where problems had repeats, then ours. n problems, k answers each, beta-binomial with mean p and
intraclass correlation ICC (of no effect where k = 1). Ours covers {lowest} to {highest}.

{accuracy}

## Paired differences of accuracy

The share won and the share lost have that interval each, joined with their correlation (MOVER).
Answers to a problem have ICC .4; the share `copied` of b's answers is a's own, of which some are
changed where b is less often right. Where two methods hardly differ, no interval of 10 problems can
be short and honest: ours is long there.

{differences}

## Rejection rates and their differences

1 to 6 candidates a problem, ICC .2: the ratio estimator, with problems as clusters.

{rejection}

## At equal cost

The rival is the best of its mixtures at or below our mean calls. In truth it is exactly as right as
we are, so p <= .05 is an error. Costs are exponential in part, and hard problems cost more. The
best of several rivals on the same data looks better than it is; that bias counts against us.

{equal}

## Mean costs

Lognormal with that sigma; n problems. Ours takes at each end the further one of the t interval and
of the bootstrap-t. No interval of 10 very skewed costs is right: the tail was not seen.

{costs}

## Which rule decides

A table shows an interval, and a p value that is exact (sign flips; McNemar's for one right-or-wrong
answer a problem), corrected by Holm. They are different tests of one question, and at few problems
they can disagree. A report calls two runs different only where both say so. Where they disagree,
the p value is the one with a guarantee: it keeps its size at any n where each sign is as likely.
"""


def main() -> None:
    """Simulate and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="data sets in a cell")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.write_text(page(options.count), encoding="utf-8")


if __name__ == "__main__":
    main()
