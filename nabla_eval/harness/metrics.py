"""Metrics of tasks that read what a response cost beside whether it is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nabla_eval.harness.response import NablaResponse

COSTS = ("model_calls", "generated_tokens")


def cost_metrics(responses: Sequence[Any]) -> dict[str, float]:
    """Mean cost per response of one document, for lm-eval to average over documents.

    `rejection_rate` is that of all candidates of the document's responses, and absent where there
    were none: lm-eval then averages over the documents that had candidates, with its own standard
    error, and a method that judges no candidates gets no row instead of a zero. (Pooled over
    candidates, as the paper's Table 4, it is in the reports on traces.) `malformed` counts what the
    policy wrote and the method could not use. Responses of other models carry no statistics and
    give no metrics.
    """
    stats = [r.stats for r in responses if isinstance(r, NablaResponse) and r.stats]
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


def failed_metrics(responses: Sequence[Any]) -> dict[str, float]:
    """`failed`, of a document one of whose responses could not be produced; else nothing.

    Such a document has no other metric: it is neither right nor wrong, and the averages of lm-eval
    are over the documents that have one.
    """
    failed = any(isinstance(r, NablaResponse) and "failed" in r.stats for r in responses)
    return {"failed": 1.0} if failed else {}


def total(values: Sequence[float]) -> float:
    """Aggregation of `failed`: how many."""
    return float(sum(values))


def listed(results: Sequence[Any]) -> list[Any]:
    """A document's responses: with `repeats` and a filter that keeps all, results is [[...]]."""
    (responses,) = results
    return list(responses) if isinstance(responses, (list, tuple)) else [responses]
