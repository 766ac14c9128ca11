"""What the files in `tasks/` call: the class of the problem sets, and the embedded tasks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.filter import Filter, FilterEnsemble
from lm_eval.api.task import ConfigurableTask

from nabla_eval.embedded import countdown as numbers
from nabla_eval.embedded import words as stories
from nabla_eval.errors import ConfigError, suggest
from nabla_eval.grading import GRADERS, grade_batch
from nabla_eval.harness.metrics import (
    check_metrics,
    cost_metrics,
    failed_metrics,
    listed,
    metric_list,
    sample_metrics,
)
from nabla_eval.harness.preflight import plain_errors
from nabla_eval.harness.problems import known, store
from nabla_eval.harness.problems.sets import problem_set
from nabla_eval.harness.problems.store import VARIABLE
from nabla_eval.terminal import LOGGER

EMBEDDED_PROBLEMS = 1200


def countdown(*, countdown_numbers: int = 3, **others: Any) -> dict[str, Any]:
    """Return the test split of Countdown: no network, the same on every machine.

    lm-eval passes `dataset_kwargs` and, among them, all model arguments, which do not matter here.
    """
    from datasets import Dataset

    told = numbers.test_problems(EMBEDDED_PROBLEMS, numbers=countdown_numbers)
    return {"test": Dataset.from_list(told)}


def words(**_: Any) -> dict[str, Any]:
    """Return the test split of the word problems, made on the spot: the same on every machine."""
    from datasets import Dataset

    return {"test": Dataset.from_list(stories.test_problems(EMBEDDED_PROBLEMS))}


def score_countdown(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """Return exact_match (over repeats: their mean) and what the responses cost.

    The text is verified up to the first line break, should a model go on after its answer.
    """
    return _scored(results, lambda text: numbers.verify(doc, text.strip().partition("\n")[0]))


def score_words(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """Return exact_match of the last box (over repeats: its mean) and what the responses cost."""
    return _scored(results, lambda text: stories.verify(doc, text))


def _scored(results: Sequence[Any], verify: Callable[[str], bool]) -> dict[str, float]:
    responses = listed(results)
    if failed := failed_metrics(responses):
        return failed
    right = [verify(str(response)) for response in responses]
    return {"exact_match": sum(right) / len(right), **cost_metrics(responses)}


class KeepAll(Filter):
    """Every sample stays; lm-eval's default filter keeps the first."""

    def apply(self, resps: Any, docs: Any) -> Any:
        return resps


class MathTask(ConfigurableTask):
    """A set of problems with final answers. In YAML, beside what every task may say:

    - `dataset_kwargs: {problem_set: aime24}` names it (`nabla_eval.harness.problems.sets`);
    - `repeats: k` asks for k samples of each problem, and all of them are scored;
    - `metric_list` picks metrics, by default all: exact_match (= avg@k), pass@k, maj@k, truncated,
      no_answer, grader_timeout and the costs.

    `--metadata '{"grader": "math_verify"}'` (or `metadata:` in YAML) has math-verify grade alone,
    as in most published figures; it finds answers by its own rules. maj@k groups them by ours.

    The items come from the folder that `--metadata '{"data_dir": ...}'` or the environment's
    `NABLA_DATA` names, else from the hub. Their number, hash and source are in the results, under
    `configs.<task>.metadata`. Raises `ConfigError` and `DataError`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        if "lm_eval._cli.run" in sys.modules:
            plain_errors()
        config = {name: value for name, value in config.items() if name != "class"}
        self.grader = grader_of(config.get("metadata"))
        samples = int(config.get("repeats", 1))
        config.setdefault("metric_list", metric_list(samples))
        check_metrics([m["metric"] for m in config["metric_list"]], samples, config["task"])
        # Named here too, so that lm-eval does not look for the metrics among its own.
        super().__init__(config={**config, "process_results": type(self).process_results})
        self.config.metadata = {**(self.config.metadata or {}), "grader": self.grader}
        if self.config.filter_list is None:
            self._filters = [FilterEnsemble("none", [KeepAll])]

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: Any) -> None:
        """Load the items. Raises `DataError` where they are out of reach or not all there."""
        from datasets import Dataset

        name = (dataset_kwargs or {}).get("problem_set")
        if name is None:
            raise ConfigError(
                f"{self.task_name} does not say which problems it asks. Add dataset_kwargs: "
                "{problem_set: ...} to its YAML."
            )
        told = (self.config.metadata or {}).get("data_dir") or os.environ.get(VARIABLE)
        problems = problem_set(name)
        copy = store.counted(
            store.read(Path(told).expanduser(), problems) if told else store.from_hub(problems)
        )
        for fault in known.examine(copy).faults:
            LOGGER.warning("%s: %s has %s.", self.task_name, copy.source, fault)
        if copy.part:
            whole = f"{copy.problems.items} of {copy.problems.title}"
            LOGGER.warning("%s: only the first %s of the %s.", self.task_name, copy.expected, whole)
        found = {"items": len(copy.items), "items_hash": copy.hash, "items_source": copy.source}
        LOGGER.info("%s: %s", self.task_name, found)
        self.config.metadata = {**(self.config.metadata or {}), **found}
        self.dataset = {"test": Dataset.from_list([dict(item) for item in copy.items])}

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
        """Grade a problem's samples.

        With several ranks, lm-eval appends the answers to padding copies of a request: of those
        that stand beyond `repeats`, none is a sample of its own.
        """
        responses = listed(results)[: self.config.repeats]
        pairs = ((doc["answer"], str(response)) for response in responses)
        grades = grade_batch(pairs, grader=self.grader)
        return sample_metrics(grades, responses, self._metric_fn_list)


def grader_of(metadata: Mapping[str, Any] | None) -> str:
    """Who grades a task with these metadata. Raises `ConfigError` for a grader that is unknown."""
    name = (metadata or {}).get("grader") or GRADERS[0]
    if name not in GRADERS:
        raise ConfigError(f"There is no grader {name!r}. {suggest(str(name), GRADERS)}")
    return str(name)
