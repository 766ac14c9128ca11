"""One training run: select, load, train with TRL, save, record."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from importlib.metadata import version

import torch

from nabla_eval.errors import ConfigError
from nabla_eval.training.data import DataFacts, DataSelection
from nabla_eval.training.folder import TrainRecord, claim, finish
from nabla_eval.training.setting import Backend, TrainJob, choose, prepare
from nabla_eval.training.trainers import (
    Report,
    history,
    mean,
    parameters,
    require_trl,
    save,
    shared_arguments,
    silence,
)

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def run(
    job: TrainJob,
    backend: Backend,
    report: Report = lambda step, steps, figures: None,
    selected: Callable[[DataFacts], None] = lambda facts: None,
) -> TrainRecord:
    """Train and save to `job.output`; returns what is written to training.json there.

    Data and options are checked before any weight is read: `DataError`, `ConfigError`,
    `ModelError`. A run that is stopped goes on from its newest checkpoint with `resume`, and on
    the same machine ends with the same weights as one that was not.
    """
    require_trl()
    setting = prepare(job)
    selection = choose(setting, backend)
    _enough(job, selection)
    selected(selection.facts)
    began = time.perf_counter()
    options = job.options(backend.method)
    newest = claim(job.output, options, resume=job.resume)
    model = setting.checkpoint.load(setting.dtype, torch.device("cpu"))
    trainer = backend.trainer(setting, selection.examples, model, shared_arguments(setting))
    silence(trainer, report)
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    steps = history(trainer.state.log_history)
    tenth = max(1, len(steps) // 10)
    record = TrainRecord(
        schema=1,
        method=backend.method,
        options=options,
        data=selection.facts,
        learning_rate=job.recipe.learning_rate,
        parameters=parameters(trainer.model),
        steps=trainer.state.global_step,
        resumed_from=None if newest is None else int(newest.name.partition("-")[2]),
        seconds=round(time.perf_counter() - began, 1),
        first=mean(steps[:tenth]),
        last=mean(steps[-tenth:]),
        history=steps,
        threads=torch.get_num_threads(),
        device=str(setting.device),
        dtype=str(setting.dtype).removeprefix("torch."),
        versions={"python": platform.python_version(), **{n: version(n) for n in _PACKAGES}},
    )
    save(trainer, job.output)
    if trainer.is_world_process_zero():
        finish(job.output, record)
    return record


def _enough(job: TrainJob, selection: DataSelection) -> None:
    """Raise `ConfigError` where not even one batch is full: TRL would make no step at all."""
    if len(selection.examples) < job.recipe.batch_size:
        raise ConfigError(
            f"batch_size={job.recipe.batch_size} is more than the {len(selection.examples)} "
            "problems there are. Try a smaller --batch-size, or more data."
        )
