"""The embedded Countdown problems as an lm-eval task (`tasks/nabla_countdown.yaml`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nabla_eval.embedded.countdown import test_problems, verify
from nabla_eval.harness.metrics import cost_metrics, failed_metrics, listed

PROBLEMS = 1200


def dataset(*, countdown_numbers: int = 3, **others: Any) -> dict[str, Any]:
    """The test split: no network, the same on every machine.

    lm-eval passes `dataset_kwargs` and, among them, all model arguments, which do not matter here.
    """
    from datasets import Dataset

    return {"test": Dataset.from_list(test_problems(PROBLEMS, numbers=countdown_numbers))}


def process_results(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """exact_match (over repeats: their mean) and what the responses cost.

    The text is verified up to the first line break, should a model go on after its answer.
    """
    responses = listed(results)
    if failed := failed_metrics(responses):
        return failed
    right = [verify(doc, str(response).strip().partition("\n")[0]) for response in responses]
    return {"exact_match": sum(right) / len(right), **cost_metrics(responses)}
