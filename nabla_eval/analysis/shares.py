"""Shares of things: work that was saved (the paper's D.2), work wasted, answers that failed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nabla_eval.analysis.accuracy import accuracy
from nabla_eval.analysis.intervals import LEVEL, Estimate, ratio, share
from nabla_eval.analysis.runs import Run
from nabla_eval.traces.keep import length
from nabla_eval.traces.schema import Record, document

_RESAMPLES = 2000
# Names under which tasks report what went wrong with an answer.
FAILURES = ("no_answer", "grader_timeout", "grader_error")


@dataclass(frozen=True)
class Acceleration:
    """What a run did not have to do, each as a share of what it would have done otherwise."""

    certified: Estimate  # draws from refined distributions that no gradient could change
    cached: Estimate  # gradient passes, against one per step of every refinement
    reused: Estimate  # tokens, against rolling both sides of every judged candidate out afresh
    spared: Estimate  # tokens, against rolling every visited position out from the prompt
    skipped: Estimate  # positions passed without refinement
    speculative: Estimate  # model calls that lookahead threw away; a cost, not a saving


def acceleration(records: Sequence[Record], level: float = LEVEL) -> Acceleration:
    """Acceleration shares with intervals over problems; NaN where a run has nothing of the kind.

    `certified`: such draws need no refinement, and are the zeroth-order twin's (`dto.certify`);
    older versions did not look. `cached`: without a cache every one of the T steps of a refinement
    takes a pass. `reused`: Algorithm 1 as printed rolls out the current response again at each
    position where it rolls out a rival; positions whose draw did not differ from their token would
    add to that, so the share is a lower bound. It cannot exceed one half by much, because each
    token that is reused stands beside one that was drawn. `spared` can, as the paper's 74.1 % does:
    it holds what was drawn against a draft and one whole response more for each visited position.
    A trace does not say how long the response was at every visit, so the shortest is taken: a lower
    bound too.
    """
    steps = int(records[0]["config"].get("steps", 0))
    spent = [record["ledger"] for record in records]
    tails = [_reused_tokens(record) for record in records]
    drawn = [s["generated_tokens"] if any(tails) else 0 for s in spent]
    unhurried = [s["refinements"] * steps for s in spent]
    passed = [record["outcome"]["positions"] for record in records]
    visited = [record["outcome"]["visited"] for record in records]
    certified = [record["outcome"].get("certified", 0) for record in records]
    afresh = [_from_the_prompt(record) if any(visited) else 0 for record in records]
    spared = _less(afresh, [s["generated_tokens"] if any(afresh) else 0 for s in spent])
    return Acceleration(
        certified=_ratio(records, certified, visited if steps else [0] * len(visited), level),
        cached=_ratio(
            records, _less(unhurried, [s["gradient_passes"] for s in spent]), unhurried, level
        ),
        reused=_ratio(records, tails, [t + d for t, d in zip(tails, drawn, strict=True)], level),
        spared=_ratio(records, spared, afresh, level),
        skipped=_ratio(records, _less(passed, visited), passed, level),
        speculative=_ratio(
            records, [_thrown(s) for s in spent], [s["model_calls"] for s in spent], level
        ),
    )


def _less(wholes: Sequence[float], parts: Sequence[float]) -> list[float]:
    return [whole - part for whole, part in zip(wholes, parts, strict=True)]


def _reused_tokens(record: Record) -> int:
    """Tokens of the current response after each judged position, which were not drawn again."""
    if not record["drafts"] or not record["candidates"]:
        return 0
    current, total = length(record["drafts"][0]), 0
    for candidate in record["candidates"]:
        total += current - candidate["position"]
        if candidate["verdict"] == "accepted":
            current = length(candidate)
    return total


def _from_the_prompt(record: Record) -> int:
    """Tokens of a draft, and of one response from the prompt on for each visited position."""
    if not record["drafts"]:
        return 0
    draft = length(record["drafts"][0])
    accepted = [c for c in record["candidates"] if c["verdict"] == "accepted"]
    shortest = min([draft, *map(length, accepted)])
    return draft + int(record["outcome"]["visited"]) * shortest


def _thrown(ledger: dict[str, float]) -> float:
    passes = ledger["speculative_passes"]
    return ledger["speculative_tokens"] + ledger["speculative_scorings"] + 4 * passes


def _ratio(
    records: Iterable[Record], parts: Iterable[float], wholes: Iterable[float], level: float
) -> Estimate:
    part: dict[str, float] = defaultdict(float)
    whole: dict[str, float] = defaultdict(float)
    for record, a, b in zip(records, parts, wholes, strict=True):
        problem = document(record["id"])
        part[problem] += a
        whole[problem] += b
    if all(0 <= part[problem] <= whole[problem] for problem in whole):
        return share(part, whole, level)
    return ratio(part, whole, resamples=_RESAMPLES, level=level)


@dataclass(frozen=True)
class Failures:
    """Shares of answers that went wrong for another reason than being wrong."""

    answers: int
    truncated: Estimate  # cut off by the length limit
    reported: dict[str, Estimate]  # those of `FAILURES` that the task reports


def failures(run: Run, level: float = LEVEL) -> Failures:
    """Truncated answers from the trace; the rest from the metrics of the task."""
    cut = _counted(run.records, lambda record: record["outcome"]["stop"] == "length")
    answers = _counted(run.records, lambda record: True)
    return Failures(
        answers=len(run.records),
        truncated=share(cut, answers, level),
        reported={
            name: accuracy(run.metrics[name], level) for name in FAILURES if name in run.metrics
        },
    )


def _counted(records: Iterable[Record], what: Callable[[Record], bool]) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for record in records:
        found[document(record["id"])] += what(record)
    return dict(found)
