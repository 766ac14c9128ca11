"""The one way to run an evaluation: lm-eval's own `lm_eval run`, in this process, into a folder.

`nabla-eval run`, `sweep` and `demo` all go through `Evaluator.evaluate`.
"""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from nabla_eval.errors import DataError, suggest
from nabla_eval.harness import arguments as model_args
from nabla_eval.harness.arguments import process_number
from nabla_eval.harness.register import NAME, register
from nabla_eval.harness.task_files import list_tasks, tasks_path
from nabla_eval.runs.command import Evaluation
from nabla_eval.runs.folder import complete, fail
from nabla_eval.traces.manifest import Manifest

RESULTS = "results.json"  # lm-eval inserts the date; samples are written beside it


@dataclass(frozen=True)
class Collected:
    """lm-eval's model, what it would be asked, and the tasks that ask, by name."""

    lm: Any
    requests: list[Any]
    tasks: Mapping[str, Any]


@dataclass
class Evaluator:
    """Runs evaluations one after another.

    `keep` the models and tasks of one for the next: models until other ones are asked for, so that
    an evaluation may hold more than it needs. Without it, memory holds what `lm_eval` would.
    """

    keep: bool = True
    _pair: tuple[str, Any] | None = field(default=None, repr=False)
    _managers: dict[str, Any] = field(default_factory=dict, repr=False)

    def evaluate(
        self, folder: Path, evaluation: Evaluation, manifest: Manifest, **hooks: Any
    ) -> Manifest:
        """Evaluate into a run folder that was claimed; returns its completed `run.json`.

        `hooks` are `NablaLM`'s `progress` and `begin`. A folder that holds a part of the traces is
        continued. What goes wrong is noted in `run.json` and raised. Of several ranks
        (`accelerate launch`) the first one writes `run.json`.
        """
        from lm_eval._cli.run import Run

        asked = Namespace(**evaluation.options)
        asked.model, asked.tasks = NAME, list(evaluation.tasks)
        asked.model_args = {**evaluation.model_args, "trace_dir": str(folder)}
        asked.output_path, asked.log_samples = str(folder / RESULTS), True
        asked.include_path = _folders(evaluation)
        first = process_number("RANK", 0) == 0
        began = time.perf_counter()
        try:
            with self._kept(evaluation, manifest["model_args"], hooks):
                Run._execute(asked)
            if not first:
                return manifest
            wall, device = time.perf_counter() - began, device_name(evaluation.options["device"])
            return complete(folder, manifest, device=device, wall_seconds=wall)
        except Exception as error:
            named = _named(error)
            if first:
                fail(folder, manifest, named)
            raise named from error

    def collect(self, evaluation: Evaluation, described: Mapping[str, Any]) -> Collected:
        """Return what an evaluation would ask which model, with none of it answered.

        Raises what the evaluation itself would raise before its first answer, and `DataError` where
        it asks for no responses.
        """
        from lm_eval._cli.run import Run

        from nabla_eval.harness.lm import NablaLM
        from nabla_eval.harness.metrics import NablaResponse

        found: list[Collected] = []

        def asked(lm: NablaLM, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Any]:
            tasks = self._manager(evaluation.tasks, _folders(evaluation), told)
            names = matching(tasks, evaluation.tasks)
            found.append(Collected(lm, list(requests), tasks.load(names)["tasks"]))
            return [NablaResponse("", {"failed": "not asked"}) for _ in requests]

        told = _told(evaluation, described)
        options = Namespace(**evaluation.options)
        options.model, options.tasks = NAME, list(evaluation.tasks)
        options.model_args = dict(evaluation.model_args)
        options.include_path = _folders(evaluation)
        try:
            with (
                redirect_stdout(io.StringIO()),  # lm-eval's own table is of no answers
                self._kept(evaluation, described, {}),
                patch.object(NablaLM, "generate_until", asked),
            ):
                Run._execute(options)
        except Exception as error:
            raise _named(error) from error
        if not found:
            raise DataError(
                f"{', '.join(evaluation.tasks)} asks for no responses (generate_until). Try "
                "nabla_gsm8k."
            )
        return found[0]

    def tasks(self, evaluation: Evaluation, described: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the tasks that an evaluation names, with their problems; no model is loaded.

        Without those that it means by a file, which lm-eval finds later. Raises what the evaluation
        itself would raise of them.
        """
        check_tasks([evaluation])
        try:
            with redirect_stdout(io.StringIO()), self._kept(evaluation, described, {}):
                folders, told = _folders(evaluation), _told(evaluation, described)
                manager = self._manager(evaluation.tasks, folders, told)
                names = [own for own in matching(manager, evaluation.tasks) if knows(manager, own)]
                tasks: Mapping[str, Any] = manager.load(names)["tasks"]
                return tasks
        except Exception as error:
            raise _named(error) from error

    @contextmanager
    def _kept(
        self, evaluation: Evaluation, described: Mapping[str, Any], hooks: Mapping[str, Any]
    ) -> Iterator[None]:
        """Have lm-eval use what is kept, and do once what it repeats.

        It lists the installed packages for every evaluation (seconds of subprocesses), and compiles
        a task's templates for every document (a millisecond, three times). No result changes.
        """
        import lm_eval.evaluator
        import lm_eval.tasks
        import lm_eval.utils

        from nabla_eval.harness.lm import NablaLM

        register()
        compiled = functools.lru_cache(maxsize=256)(lm_eval.utils.env.from_string)
        describe = lm_eval.evaluator.add_env_info
        commit = functools.partial(_commit, lm_eval.evaluator.get_git_commit_hash)

        def model(arguments: Mapping[str, Any], further: Mapping[str, Any]) -> Any:
            named = {**further, "device": evaluation.options["device"]}  # not lm-eval's default
            if all(knows(manager(), name) for name in evaluation.tasks):  # no pattern, no file
                manager().load(list(evaluation.tasks))  # kept: missing data are missed first
            return self._model({**named, **arguments}, hooks)

        def manager(**_: Any) -> Any:
            told = _told(evaluation, described)
            found = self._manager(evaluation.tasks, _folders(evaluation), told)
            if (chosen := evaluation.documents()) is not None:
                _check_documents(chosen, found.load(list(evaluation.tasks))["tasks"])
            return found

        def add_environment(storage: dict[str, Any]) -> None:
            if not _ENVIRONMENT:
                describe(_ENVIRONMENT)
            storage.update(_ENVIRONMENT)

        with (
            patch.object(NablaLM, "create_from_arg_obj", model),
            patch.object(lm_eval.evaluator, "add_env_info", add_environment),
            patch.object(lm_eval.evaluator, "get_git_commit_hash", commit),
            patch.object(lm_eval.utils.env, "from_string", compiled),
            patch.object(lm_eval.tasks, "TaskManager", manager),
        ):
            yield

    def _model(self, arguments: Mapping[str, Any], hooks: Mapping[str, Any]) -> Any:
        """Return lm-eval's model for these arguments, on the kept pair where it is the same."""
        from nabla_eval.harness.lm import NablaLM

        arguments = {name: value for name, value in arguments.items() if value is not None}
        if not self.keep:
            return NablaLM(**arguments, **hooks)
        loading = model_args.loading(arguments)
        own = {name: value for name, value in arguments.items() if name not in loading}
        name = json.dumps(loading, sort_keys=True, default=str)
        if self._pair is None or self._pair[0] != name:
            self._pair = None  # free the memory first
            alone = loading.get("pretrained") is not None and loading.get("reward") is None
            loading |= {
                "method": "greedy" if alone else "best_of_n",
                "batch_size": arguments["batch_size"],
            }
            self._pair = (name, NablaLM(**loading).pair)  # through `HFLM`'s own loader
        return NablaLM(pair=self._pair[1], **own, **hooks)

    def _manager(self, names: Sequence[str], folders: list[str], metadata: dict[str, Any]) -> Any:
        """Return the cheapest `TaskManager` that knows all names; the tasks that it makes are kept.

        One that indexes all of lm-eval's own tasks takes 10 to 20 s.
        """
        from lm_eval.tasks.manager import TaskManager

        for everything in (False, True):
            key = json.dumps([everything, folders, metadata], sort_keys=True, default=str)
            if key not in self._managers:
                self._managers[key] = made = TaskManager(
                    include_path=list(folders), include_defaults=everything, metadata=metadata
                )
                made.load = _once(made.load)
            if everything or all(knows(self._managers[key], name) for name in names):
                break
        return self._managers[key]


def _check_documents(chosen: Mapping[str, Sequence[int]], tasks: Mapping[str, Any]) -> None:
    """Raise `DataError` where --samples names a task or a document that there is not.

    lm-eval answers all documents of a task that --samples does not name.
    """
    for name, places in chosen.items():
        if name not in tasks:
            raise DataError(f"--samples: no task {name!r} is evaluated. {suggest(name, tasks)}")
        count = len(tasks[name].eval_docs)
        if wrong := [place for place in places if not 0 <= place < count]:
            raise DataError(
                f"--samples: {name} has no document {wrong[0]}. Try 0 to {count - 1:,}."
            )


def _commit(ask: Callable[[], str | None]) -> str | None:
    """Return lm-eval's commit of the folder, without git's complaint where that is no clone."""
    from lm_eval.loggers.utils import get_commit_from_path

    try:
        command, words = ["git", "rev-parse"], {**os.environ, "LC_ALL": "C"}
        said = subprocess.run(command, capture_output=True, env=words).stderr
    except OSError:  # no git
        said = b""
    return get_commit_from_path(os.getcwd()) if b"not a git repository" in said else ask()


_ENVIRONMENT: dict[str, Any] = {}  # as lm-eval describes it, once per process


def _told(evaluation: Evaluation, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tasks are told of an evaluation, as lm-eval's metadata."""
    return {**described, **(evaluation.options.get("metadata") or {})}


def _folders(evaluation: Evaluation) -> list[str]:
    """Return the folders of task files: ours, and those asked for."""
    own = evaluation.options.get("include_path") or []
    return [str(tasks_path()), *([own] if isinstance(own, str) else own)]


def knows(manager: Any, name: str) -> bool:
    """Return whether a manager has a task, or a group with all of its members."""
    entry = manager.task_index.get(name)
    if entry is None:
        return False
    config = entry.cfg or {}
    if "group" not in config:
        return True
    parts = config.get("task") or []
    members = [part.get("task") if isinstance(part, dict) else part for part in parts]
    return all(isinstance(member, str) and knows(manager, member) for member in members)


def check_tasks(evaluations: Sequence[Evaluation]) -> None:
    """Raise `DataError` where lm-eval would find no task of a name, as it reads names: a,b; a_*.

    It indexes lm-eval's own tasks (10 to 20 s) only where ours lack a name.
    """
    from lm_eval.tasks.manager import TaskManager

    left = {part for own in evaluations for name in own.tasks for part in name.split(",")}
    left = {name for name in left if not (name.endswith(".yaml") or Path(name).is_dir())}
    folders = list(dict.fromkeys(folder for own in evaluations for folder in _folders(own)))
    for everything in (False, True):
        if left:
            manager = TaskManager(include_path=list(folders), include_defaults=everything)
            left = {name for name in left if not manager.match_tasks([name])}
    if left:
        raise _named(ValueError(f"Tasks not found: {', '.join(sorted(left))}"))


def matching(manager: Any, names: Sequence[str]) -> list[str]:
    """Return the tasks and groups that names stand for, as lm-eval reads them: a,b; a_*."""
    parts = [part for name in names for part in name.split(",")]
    return [own for part in parts for own in (manager.match_tasks([part]) or [part])]


def _once(load: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """Return a `TaskManager`'s `load` that makes each task once, with its problems."""
    known: dict[str, dict[str, Any]] = {}

    def kept(names: Any) -> dict[str, Any]:
        if str(names) not in known:
            known[str(names)] = load(names)
        return {kind: dict(entries) for kind, entries in known[str(names)].items()}

    return kept


def _named(error: Exception) -> Exception:
    """Return lm-eval's error for an unknown task with the closest of our names."""
    text = str(error)
    if not isinstance(error, ValueError) or not text.startswith("Tasks not found:"):
        return error
    missing = text.removeprefix("Tasks not found:").strip()
    return DataError(
        f"There is no task {missing!r}. {suggest(missing, [task.name for task in list_tasks()])} "
        "`lm_eval ls tasks` lists lm-eval's own; --include_path adds a folder."
    )


def device_name(device: str | None) -> str:
    """Return what a device is: `cpu`, or `cuda:0 (NVIDIA H100)`. Imports torch."""
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and torch.cuda.is_available():
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return device
