"""Responses that know what they cost, and the metrics of tasks: is it right, what did it take?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import comb
from typing import Any

from nabla_eval.errors import ConfigError
from nabla_eval.grading import Grade, cluster

COSTS = ("model_calls", "generated_tokens")
_OVER_SAMPLES = re.compile(r"(pass|maj)@([1-9][0-9]*)")
HIGHER_IS_BETTER = {
    "exact_match": True,  # avg@k: the mean over the samples of a problem, then over problems
    "truncated": False,
    "no_answer": False,
    "grader_timeout": False,
    **dict.fromkeys(COSTS, False),
    "rejection_rate": False,
    "malformed": False,
    "failed": False,
}


class NablaResponse(str):
    """A response that remembers what producing it took, in `stats`.

    The stats are `Outcome.stats()` (model calls and their parts, candidates, rejected, ties,
    rejection rate, truncated, reward) with the problem's `id`, the `method` and its `seconds`.
    It is a plain string to everything that does not ask. It keeps its stats through the string
    methods that lm-eval's filters use, through pickling (several ranks) and copying;
    a filter that builds a new string, as `regex` does, loses them: read the stats before it.
    """

    stats: dict[str, Any]

    def __new__(cls, text: str = "", stats: Mapping[str, Any] | None = None) -> NablaResponse:
        response = super().__new__(cls, text)
        response.stats = dict(stats or {})
        return response

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.stats)


def _with_stats(name: str) -> Callable[..., NablaResponse]:
    plain = getattr(str, name)

    def method(self: NablaResponse, *arguments: Any) -> NablaResponse:
        return NablaResponse(plain(self, *arguments), self.stats)

    return method


for _name in (
    "__getitem__", "strip", "lstrip", "rstrip", "lower", "upper", "replace", "removeprefix",
    "removesuffix", "translate",
):  # fmt: skip
    setattr(NablaResponse, _name, _with_stats(_name))


def listed(results: Sequence[Any]) -> list[Any]:
    """Return a document's responses: with repeats, a filter that keeps all gives [[...]]."""
    (responses,) = results
    return list(responses) if isinstance(responses, (list, tuple)) else [responses]


def total(values: Sequence[float]) -> float:
    """Aggregate `failed`: how many."""
    return float(sum(values))


def failed_metrics(responses: Sequence[Any]) -> dict[str, float]:
    """Return `failed` for a document one of whose responses could not be produced; else nothing.

    Such a document has no other metric: it is neither right nor wrong, and the averages of lm-eval
    are over the documents that have one.
    """
    failed = any(isinstance(r, NablaResponse) and "failed" in r.stats for r in responses)
    return {"failed": 1.0} if failed else {}


def cost_metrics(responses: Sequence[Any]) -> dict[str, float]:
    """Return the mean cost per response of one document, for lm-eval to average over documents.

    `rejection_rate` is that of all candidates of the document's responses, and absent where there
    were none: lm-eval then averages over the documents that had candidates, with its own standard
    error, and a method that judges no candidates gets no row instead of a zero. (Pooled over
    candidates, as the paper's Table 4, it is in the reports on traces.) `malformed` counts what the
    policy wrote and the method could not use. Responses of other models carry no statistics and
    give no metrics.
    """
    stats = _stats(responses)
    if not stats:
        return {}
    metrics = {name: sum(s[name] for s in stats) / len(stats) for name in COSTS}
    malformed = [s["malformed"] for s in stats if s.get("malformed") is not None]
    if malformed:
        metrics["malformed"] = sum(malformed) / len(malformed)
    candidates = sum(s["candidates"] for s in stats)
    if candidates:
        metrics["rejection_rate"] = sum(s["rejected"] for s in stats) / candidates
    return metrics


def _stats(responses: Sequence[Any]) -> list[dict[str, Any]]:
    return [r.stats for r in responses if isinstance(r, NablaResponse) and r.stats]


def metric_list(samples: int) -> list[dict[str, Any]]:
    """Return lm-eval's `metric_list` of a task with so many graded samples of each problem."""
    first, *others = HIGHER_IS_BETTER.items()
    over_samples = [(f"pass@{samples}", True), (f"maj@{samples}", True)]
    return [
        {
            "metric": name,
            "aggregation": total if name == "failed" else "mean",
            "higher_is_better": better,
        }
        for name, better in [first, *over_samples, *others]
    ]


def check_metrics(names: Iterable[str], samples: int, task: str) -> None:
    """Raise `ConfigError` for a metric that does not exist or that the samples cannot give."""
    for name in names:
        found = _OVER_SAMPLES.fullmatch(name)
        if found is not None:
            _check_k(found[1], int(found[2]), samples, task)
        elif name not in HIGHER_IS_BETTER:
            known = ", ".join([*HIGHER_IS_BETTER, "pass@k", "maj@k"])
            raise ConfigError(f"{task} has no metric {name!r}. It has {known}.")


def _check_k(metric: str, k: int, samples: int, task: str) -> None:
    if k > samples or (metric == "maj" and k != samples):
        needs = "at least" if metric == "pass" else "exactly"
        raise ConfigError(
            f"{metric}@{k} of {task} needs {needs} {k} samples of each problem, and there are "
            f"{samples}. Set repeats: {k}, or ask for {metric}@{samples}."
        )


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the chance that k of the samples, drawn without replacement, hold a right one.

    The unbiased estimate of pass@k (Chen et al. 2021): 1 - C(n - c, k) / C(n, k). Raises
    `ConfigError` where there are fewer than k samples.
    """
    _check_k("pass", k, samples, "the task")
    return 1 - comb(samples - right, k) / comb(samples, k)


def majority(grades: Sequence[Grade]) -> float:
    """Return maj@k of a problem: the share of right samples among those of the commonest answer.

    Equivalent answers are one (`cluster`); samples without an answer do not vote; 0 where none has
    any. Samples of one group may be graded differently, since equality is not transitive, so the
    group counts by the share that is right. Among groups of the same size one would be drawn by
    lot: the value is the mean over them. Neither depends on the order of the samples.
    """
    groups = cluster([grade.answer for grade in grades])
    votes = Counter(group for group in groups if group >= 0)
    if not votes:
        return 0.0
    most = max(votes.values())
    # Tied groups have one size, so that the mean over groups is the mean over their members.
    winners = [g.equal for g, group in zip(grades, groups, strict=True) if votes[group] == most]
    return sum(winners) / len(winners)


def sample_metrics(
    grades: Sequence[Grade], responses: Sequence[Any], names: Iterable[str]
) -> dict[str, float]:
    """Return the named metrics of one problem: k graded samples, and their cost where it is known.

    `truncated` and the costs are absent for responses without statistics (of lm-eval's other
    models), `rejection_rate` also where no candidate was judged, `malformed` where nothing is kept.
    """
    if failed := failed_metrics(responses):
        return failed
    k, right, stats = len(grades), sum(grade.equal for grade in grades), _stats(responses)
    metrics = {
        "exact_match": right / k,
        "no_answer": sum(grade.reason == "no_answer" for grade in grades) / k,
        "grader_timeout": sum(grade.timed_out for grade in grades) / k,
        **cost_metrics(responses),
    }
    if stats:
        metrics["truncated"] = sum(s["truncated"] for s in stats) / len(stats)
    for name in names:
        if found := _OVER_SAMPLES.fullmatch(name):
            over = int(found[2])
            metrics[name] = pass_at_k(k, right, over) if found[1] == "pass" else majority(grades)
    return {name: metrics[name] for name in names if name in metrics}
