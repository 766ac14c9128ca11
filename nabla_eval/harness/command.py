"""lm-eval's command line with everything filled in that makes a run folder (`nabla-eval run`)."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast
from unittest.mock import patch

import yaml

from nabla_eval.errors import ConfigError, DataError, suggest
from nabla_eval.harness import arguments as model_args
from nabla_eval.harness.arguments import Arguments
from nabla_eval.harness.evaluation import RESULTS
from nabla_eval.harness.folder import close, device_name, fail, first_rank, manifest_of
from nabla_eval.harness.lmeval import files_of, indexing_only
from nabla_eval.harness.preflight import as_dict
from nabla_eval.harness.register import NAME
from nabla_eval.harness.tasks import list_tasks, tasks_path
from nabla_eval.traces.manifest import Manifest
from nabla_eval.validation import UNREADABLE, mismatch, text_of

TASK = "nabla_countdown"
COUNTED = (TASK, "nabla_countdown4")
# lm-eval's options that answers or scores depend on, besides those that have a name in `run.json`.
OPTIONS = (
    "num_fewshot", "gen_kwargs", "apply_chat_template", "fewshot_as_multiturn",
    "system_instruction", "samples", "predict_only", "metadata",
)  # fmt: skip


class _Stored(TypedDict, total=False):
    """The fields that are read of lm-eval's `--config` file; the rest of it is lm-eval's affair."""

    model: str
    model_args: dict[str, Any] | str | None
    tasks: list[Any] | str | None
    limit: float | None
    device: str | None
    batch_size: int | str | None


@dataclass(frozen=True)
class Command:
    """A checked `lm_eval run` for `--model nabla`, without its output folder."""

    namespace: Namespace  # what lm-eval's parser made of the options that are its own
    tasks: tuple[str, ...]
    model_args: Mapping[str, Any]
    arguments: Arguments  # what they were read as

    def manifest(self, command: str, name: str) -> Manifest:
        """The `run.json` of this command."""
        given = {name: getattr(self.namespace, name, None) for name in OPTIONS}
        options = {n: v for n, v in given.items() if v is not None and v is not False and v != {}}
        return manifest_of(
            self.arguments,
            self.model_args,
            self.tasks,
            command=command,
            name=name,
            seed=self.namespace.seed[2] if self.namespace.seed else None,
            limit=self.namespace.limit,
            options=options,
            device=self.namespace.device,
            batch_size=self.namespace.batch_size,
        )

    def execute(self, folder: Path, manifest: Manifest) -> Manifest:
        """Run lm-eval into a folder that was claimed; returns the completed `run.json`.

        What goes wrong is noted in `run.json` and raised; of several ranks the first one writes.
        """
        from lm_eval.utils import setup_logging

        setup_logging()
        folders = self._folders()
        filled = Namespace(**vars(self.namespace))
        filled.model, filled.tasks = NAME, list(self.tasks)
        filled.model_args = {**self.model_args, "trace_dir": str(folder)}
        filled.output_path, filled.log_samples = str(folder / RESULTS), True
        filled.include_path = folders
        began = time.perf_counter()
        try:
            with indexing_only(self.tasks, folders):
                filled.func(filled)
            if first_rank():  # which writes them, while the others go on
                files_of(folder, ())
        except Exception as error:
            if first_rank():
                fail(folder, manifest, error)
            raise self._named(error) from error
        if not first_rank():
            return manifest
        wall = time.perf_counter() - began
        device = device_name(self.namespace.device)
        return close(folder, manifest, device=device, wall_seconds=wall)

    def _folders(self) -> list[str]:
        own = getattr(self.namespace, "include_path", None)
        return [str(tasks_path()), *([own] if own else [])]

    def _named(self, error: Exception) -> Exception:
        """lm-eval's error for a task that nobody knows, with the closest of ours."""
        text = str(error)
        if not isinstance(error, ValueError) or not text.startswith("Tasks not found:"):
            return error
        ours = [task.name for task in list_tasks()]
        missing = text.removeprefix("Tasks not found:").strip()
        return DataError(
            f"There is no task {missing!r}. {suggest(missing, ours)} `lm_eval ls tasks` lists "
            "lm-eval's own; --include_path adds a folder."
        )


def compose(rest: Sequence[str], **given: Any) -> Command:
    """Read lm-eval's own options (`rest`) and those of `nabla-eval run` (`given`), which win.

    `given`: method, preset, n, tasks, seed, limit, settings (name -> value), batch_size, device,
    grader (which tasks on problem sets read among lm-eval's metadata).
    Raises `ConfigError` for model arguments that cannot work; lm-eval's parser exits on its own.
    """
    namespace = _parsed(rest)
    stored = _stored(namespace.config)
    _refuse(namespace, stored)
    options = {**as_dict(stored.get("model_args")), **(namespace.model_args or {})}
    options |= {n: given[n] for n in ("method", "preset", "n") if given.get(n) is not None}
    options |= given.get("settings") or {}
    _seed(namespace, options, given.get("seed"))
    for name in ("limit", "device"):
        if given.get(name) is not None:
            setattr(namespace, name, given[name])
        elif getattr(namespace, name) is None:
            setattr(namespace, name, stored.get(name))
    if "batch_size" not in namespace:
        chosen = given.get("batch_size") or stored.get("batch_size") or 32
        namespace.batch_size = options.pop("batch_size", chosen)
    if given.get("grader") is not None:
        namespace.metadata = {**(namespace.metadata or {}), "grader": given["grader"]}
    tasks = [*given.get("tasks", ()), *(namespace.tasks or _names(stored.get("tasks")))] or [TASK]
    _check_grader(namespace.metadata, tasks)
    arguments = model_args.read(options)
    if arguments.trace_dir is not None:
        raise ConfigError(
            f"trace_dir={arguments.trace_dir}: a run keeps its traces in its own folder. Leave "
            "trace_dir out, and choose the folder with --output."
        )
    return Command(namespace, tuple(dict.fromkeys(tasks)), options, arguments)


def _check_grader(metadata: Mapping[str, Any] | None, tasks: Sequence[str]) -> None:
    """Raise `ConfigError` where all tasks are ours and none has final answers to grade."""
    named = (metadata or {}).get("grader")
    if named is not None and all(name in COUNTED for name in tasks):
        raise ConfigError(
            f"grader={named}: the answers of {', '.join(tasks)} are checked by arithmetic. Leave "
            "it out, or choose a task on a problem set, such as nabla_math500."
        )


def _parsed(rest: Sequence[str]) -> Namespace:
    """Return what lm-eval's own parser makes of options; it prints usage and exits on wrong
    ones.
    """
    from lm_eval._cli import HarnessCLI

    with patch.object(sys, "argv", ["lm_eval", "run", "--model", NAME, *rest]):
        namespace: Namespace = HarnessCLI().parse_args()
    return namespace


def _stored(config: str | None) -> dict[str, Any]:
    """lm-eval's `--config` file."""
    if config is None:
        return {}
    try:
        content = yaml.safe_load(text_of(config))
    except (*UNREADABLE, yaml.YAMLError) as error:
        raise ConfigError(f"--config {config} cannot be read: {error}. Try a YAML file.") from error
    if wrong := mismatch(content, _Stored):
        raise ConfigError(f"--config {config}: {wrong}. Try a mapping such as `limit: 8`.")
    return dict(content)


def _refuse(namespace: Namespace, stored: Mapping[str, Any]) -> None:
    models = {namespace.model, stored.get("model", NAME)}
    if models != {NAME}:
        other = next(iter(models - {NAME}))
        raise ConfigError(
            f"--model {other}: this command runs --model {NAME}. Leave --model out, or try "
            f"`lm_eval --model {other} ...`."
        )
    chosen_documents(namespace)
    if namespace.output_path is not None or stored.get("output_path") is not None:
        raise ConfigError("--output_path is filled in. Choose the folder with --output.")


def chosen_documents(namespace: Namespace) -> dict[str, list[int]] | None:
    """The documents that --samples names, as JSON or as a file of it; lm-eval reads both.

    Raises `ConfigError` for anything else.
    """
    chosen = namespace.samples
    try:
        if isinstance(chosen, str):
            chosen = json.loads(text_of(chosen))
        wrong = mismatch(chosen, dict[str, list[int]] | None, "--samples")
    except UNREADABLE as error:
        wrong = f"--samples {chosen!r} is neither JSON nor a file of it ({error})"
    if wrong:
        raise ConfigError(f"{wrong}. Try --samples '{{\"nabla_countdown\": [0, 1]}}'.")
    return cast("dict[str, list[int]] | None", chosen)


def _seed(namespace: Namespace, options: dict[str, Any], seed: str | None) -> None:
    """One integer is the seed of the draws; four, as lm-eval takes them, are left to lm-eval."""
    if seed is None:
        if not namespace.seed:
            options.setdefault("seed", 0)
        return
    try:
        options["seed"] = int(seed)
    except ValueError:
        namespace.seed = _parsed(["--seed", seed]).seed


def _names(tasks: Any) -> list[str]:
    if isinstance(tasks, str):
        return tasks.split(",")
    return [name for name in tasks or () if isinstance(name, str)]
