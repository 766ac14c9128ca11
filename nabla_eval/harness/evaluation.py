"""Evaluations one after another in one process: models and tasks are loaded once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nabla_eval.errors import DataError, suggest
from nabla_eval.harness import arguments as model_args
from nabla_eval.harness.folder import close, device_name, fail
from nabla_eval.harness.lmeval import files_of, repeating_nothing, task_manager
from nabla_eval.harness.tasks import tasks_path
from nabla_eval.traces.lock import sole_writer
from nabla_eval.traces.manifest import Manifest

RESULTS = "results.json"  # lm-eval inserts the date; samples come beside it


@dataclass(frozen=True, kw_only=True)
class Settings:
    """lm-eval's options that the evaluations share, in its own words."""

    limit: float | None = None
    batch_size: int | str = 32
    device: str | None = None
    num_fewshot: int | None = None
    gen_kwargs: Mapping[str, Any] | None = None
    apply_chat_template: bool | str = False
    fewshot_as_multiturn: bool = True
    system_instruction: str | None = None
    include_path: tuple[str, ...] = ()
    grader: str | None = None  # of tasks on problem sets

    @property
    def metadata(self) -> dict[str, Any] | None:
        """Return what tasks are told beside their files."""
        return None if self.grader is None else {"grader": self.grader}

    @property
    def options(self) -> dict[str, Any]:
        """Those that change answers and are not lm-eval's defaults, as `run.json` has them."""
        given = {
            "num_fewshot": self.num_fewshot,
            "gen_kwargs": None if self.gen_kwargs is None else dict(self.gen_kwargs),
            "apply_chat_template": self.apply_chat_template or None,
            "system_instruction": self.system_instruction,
            "fewshot_as_multiturn": None if self.fewshot_as_multiturn else False,
            "metadata": self.metadata,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def folders(self) -> list[str]:
        """Folders of task files: ours and those asked for."""
        return [str(tasks_path()), *self.include_path]


@dataclass
class Bench:
    """Loaded models and tasks, for any number of evaluations.

    The tasks are named up front, because lm-eval's own are searched (10 to 20 s) only where one of
    them is not ours. Models are kept until an evaluation asks for others.
    """

    settings: Settings
    tasks: Sequence[str]
    _loaded: dict[str, list[Any]] = field(default_factory=dict, repr=False)
    _pair: tuple[str, Any] | None = field(default=None, repr=False)
    _manager: Any = field(default=None, repr=False)

    def evaluate(
        self,
        folder: Path,
        manifest: Manifest,
        options: Mapping[str, Any],
        progress: Callable[[int, int], None] | None = None,
    ) -> Manifest:
        """One evaluation into a run folder that was claimed; returns its completed `run.json`.

        `options` are flat model arguments, `seed` among them. A folder that holds a part of the
        traces is continued. What goes wrong is noted in `run.json` and raised, but for a folder
        that another process writes to (`DataError`): its `run.json` is not ours.
        """
        with sole_writer(folder):
            try:
                tasks = [task for name in manifest["tasks"] for task in self._task(name)]
                lm = self._model(options, folder, progress)
                began = time.perf_counter()
                self._evaluate(lm, folder, tasks, options)
                files_of(folder, self._tasks().load(tasks)["tasks"])
                return close(
                    folder,
                    manifest,
                    device=device_name(self.settings.device),
                    wall_seconds=time.perf_counter() - began,
                )
            except Exception as error:
                fail(folder, manifest, error)
                raise

    def _evaluate(
        self, lm: Any, folder: Path, tasks: Sequence[Any], options: Mapping[str, Any]
    ) -> None:
        from lm_eval import simple_evaluate
        from lm_eval.loggers import EvaluationTracker

        settings = self.settings
        tracker = EvaluationTracker(output_path=str(folder / RESULTS))
        with repeating_nothing():
            results = simple_evaluate(
                model=lm,
                model_args=dict(options),
                tasks=list(tasks),
                task_manager=self._tasks(),
                evaluation_tracker=tracker,
                limit=settings.limit,
                batch_size=settings.batch_size,
                device=settings.device,
                num_fewshot=settings.num_fewshot,
                gen_kwargs=None if settings.gen_kwargs is None else dict(settings.gen_kwargs),
                apply_chat_template=settings.apply_chat_template,
                fewshot_as_multiturn=settings.fewshot_as_multiturn,
                system_instruction=settings.system_instruction,
            )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task in results["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])

    def _tasks(self) -> Any:
        if self._manager is None:
            self._manager = task_manager(self.tasks, self.settings.folders, self.settings.metadata)
        return self._manager

    def _task(self, name: str) -> list[Any]:
        """The task, group or tagged tasks of a name; made once, with its problems."""
        if name not in self._loaded:
            try:
                found = self._tasks().load([name])
            except KeyError:
                known = self._tasks().all_tasks
                raise DataError(f"There is no task {name!r}. {suggest(name, known)}") from None
            group = found["groups"].get(name)
            self._loaded[name] = list(found["tasks"].values()) if group is None else [group]
        return self._loaded[name]

    def _model(
        self,
        options: Mapping[str, Any],
        folder: Path,
        progress: Callable[[int, int], None] | None,
    ) -> Any:
        from nabla_eval.harness.lm import NablaLM

        loading = model_args.loading(options)
        pair = self._load(loading)
        own = {name: value for name, value in options.items() if name not in loading}
        own.setdefault("batch_size", self.settings.batch_size)
        return NablaLM(pair=pair, progress=progress, trace_dir=str(folder), **own)

    def _load(self, loading: Mapping[str, Any]) -> Any:
        """The pair that the loading arguments name, through lm-eval's own loader."""
        from nabla_eval.harness.lm import NablaLM

        name = json.dumps(loading, sort_keys=True, default=str)
        if self._pair is None or self._pair[0] != name:
            self._pair = None  # free the memory first
            alone = loading.get("pretrained") is not None and loading.get("reward") is None
            given = {"device": self.settings.device, "batch_size": self.settings.batch_size}
            lm = NablaLM(method="greedy" if alone else "best_of_n", **{**given, **loading})
            self._pair = (name, lm.pair)
        return self._pair[1]
