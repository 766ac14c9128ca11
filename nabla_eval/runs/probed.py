"""What `nabla-eval probe` asks: an evaluation's problems, each with its task's own grading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lm_eval.utils import simple_parse_args_string

from nabla_eval.engine.execute import Executor
from nabla_eval.errors import ConfigError
from nabla_eval.harness.instances import SampleRequest, samples
from nabla_eval.harness.metrics import NablaResponse
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.models.pair import Pair
from nabla_eval.options import flatten
from nabla_eval.probing.plan import Plan
from nabla_eval.probing.probe import Asked, known_at_once
from nabla_eval.probing.store import inspect
from nabla_eval.protocol import Problem
from nabla_eval.runs.command import Evaluation
from nabla_eval.runs.evaluate import Collected, Evaluator


@dataclass(frozen=True)
class Loaded:
    """A pair, ∇-Reasoner's options as the tasks have them, and the problems."""

    pair: Pair
    config: Nabla
    asked: list[Asked]
    execute: Executor
    width: int
    facts: Mapping[str, Any]


def refuse(evaluation: Evaluation, plan: Plan, folder: Path | None) -> None:
    """Raise what can be said of an evaluation at once, before models and tasks are loaded.

    `ConfigError` for another method, `DataError` for a folder that holds something else.
    """
    arguments = evaluation.arguments
    if arguments.method != "nabla":
        raise ConfigError(f"method={arguments.method} has no gradient to probe. Leave method out.")
    if folder is not None:
        inspect(folder, known_at_once(arguments.config, plan) | _facts(evaluation))


def _facts(evaluation: Evaluation) -> dict[str, Any]:
    described = evaluation.manifest("nabla-eval probe")
    return {
        "tasks": list(evaluation.tasks), "options": described["options"],
        "model_args": described["model_args"],
        **({} if described["seed"] is None else {"seed": described["seed"]}),
    }  # fmt: skip


def load(evaluation: Evaluation) -> Loaded:
    """Load models and problems of an evaluation, without answering any; the problems first.

    Raises `ConfigError` for tasks that ask for greedy decoding where no temperature is given, and
    for tasks that ask for different sampling.
    """
    described = evaluation.manifest("nabla-eval probe")["model_args"]
    evaluator = Evaluator(keep=False)
    for name, task in evaluator.tasks(evaluation, described).items():
        _refuse_greedy(name, _options(task, evaluation), evaluation)
    found = evaluator.collect(evaluation, described)
    lm = found.lm
    chosen = in_turn(samples(found.requests, alike=True))
    for own in chosen:  # a task in Python may ask for what its config does not say
        _refuse_greedy(own.request.task_name, own.request.args[1], evaluation)
    work = [lm._problem(sample, lm.seed) for sample in chosen]
    configs = {str(flatten(config)) for _, config in work}
    if len(configs) > 1:
        raise ConfigError(
            "The tasks ask for different sampling. Probe one at a time, or give a temperature "
            "(--model_args temperature=0.7)."
        )
    asked = [
        Asked(problem, grader(found, sample.request, problem))
        for sample, (problem, _) in zip(chosen, work, strict=True)
    ]
    facts = {**_facts(evaluation), "models": lm.models, "seed": lm.seed}
    filters = {name: [each.name for each in task._filters] for name, task in found.tasks.items()}
    if several := {name: own for name, own in filters.items() if len(own) > 1}:
        facts["filters"] = several
    return Loaded(lm.pair, work[0][1], asked, lm._executor(), lm.width, facts)


def in_turn(chosen: Sequence[SampleRequest]) -> list[SampleRequest]:
    """Return the samples of all tasks in turn: where the time is up, each has had its share."""
    by_task: dict[str, list[SampleRequest]] = {}
    for sample in chosen:
        by_task.setdefault(sample.request.task_name, []).append(sample)
    return [own for turn in zip_longest(*by_task.values()) for own in turn if own is not None]


def _options(task: Any, evaluation: Evaluation) -> dict[str, Any]:
    """Return the generation arguments of a task, `--gen_kwargs` behind its own."""
    given = evaluation.options.get("gen_kwargs") or {}
    if isinstance(given, str):
        given = simple_parse_args_string(given)
    return {**(task.config.generation_kwargs or {}), **given}


def _refuse_greedy(name: str, options: Mapping[str, Any], evaluation: Evaluation) -> None:
    greedy = options.get("do_sample") is False or options.get("temperature") == 0
    if greedy and "temperature" not in evaluation.arguments.given:
        raise ConfigError(
            f"{name} asks for greedy decoding, which leaves no draws to probe. Give a temperature: "
            "--model_args temperature=0.7."
        )


def grader(found: Collected, request: Any, problem: Problem) -> Callable[[str], bool | None]:
    """Return what grades a response as its task does: its first filter, then its metrics.

    exact_match, or else the first metric of the task with values in [0, 1] of which more is better;
    None where none has. The reports go by the first filter too. Where the task has repeats, all of
    them answer alike.
    """
    task = found.tasks[request.task_name]
    if not task._filters:  # of an empty filter_list lm-eval computes no metric
        return lambda text: None
    chosen, upwards = task._filters[0], task.higher_is_better()

    def grade(text: str) -> bool | None:
        answer = text if problem.thought is None else problem.thought.answer(text)
        own = copy(request)
        own.resps, own.filtered_resps = [NablaResponse(answer)] * (request.repeats or 1), {}
        chosen.apply([own])
        scored = task.process_results(own.doc, [own.filtered_resps[chosen.name]])
        metrics = {name: value for name, value in scored.items() if upwards.get(name, True)}
        scores = [metrics.get("exact_match"), *metrics.values()]
        return next((bool(s >= 0.5) for s in scores if _is_share(s)), None)

    return grade


def _is_share(score: Any) -> bool:
    return isinstance(score, int | float) and 0 <= score <= 1
