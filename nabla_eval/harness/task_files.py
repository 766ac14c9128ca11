"""Where the lm-eval task files are, in a checkout, an editable install and a wheel install."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Literal

import yaml

import nabla_eval
from nabla_eval.errors import DataError
from nabla_eval.harness.problems.sets import SETS
from nabla_eval.validation import UNREADABLE, text_of

_INSTALLED = Path("share", "nabla_eval", "tasks")  # pyproject.toml: shared-data


@dataclass(frozen=True)
class TaskFile:
    """One task or group that `lm_eval --tasks` knows by `name`."""

    name: str
    kind: Literal["task", "group"]
    file: Path
    dataset: str  # path or hub name of the problems; "" where an included file says it


def tasks_path() -> Path:
    """Folder for `lm_eval --include_path`.

    Raises `DataError` where the package came without its task files.
    """
    tried = []
    for folder in _candidates():
        tried.append(str(folder))
        if any(folder.rglob("*.yaml")):
            return folder
    raise DataError(
        f"No task files of nabla_eval were found in {', '.join(tried)}. Reinstall nabla-eval from "
        "its wheel or its repository."
    )


def list_tasks(folder: Path | None = None) -> list[TaskFile]:
    """Every task and group in `folder` (default: `tasks_path()`), groups first, then by name."""
    folder = tasks_path() if folder is None else folder
    found = [task for file in sorted(folder.rglob("*.yaml")) if (task := _read(file)) is not None]
    return sorted(found, key=lambda task: (task.kind, task.name))


def _candidates() -> Iterator[Path]:
    root = Path(nabla_eval.__file__).resolve().parent.parent
    if (root / "pyproject.toml").is_file():  # else `tasks` may be anybody's
        yield root / "tasks"
    try:
        installed = files("nabla-eval") or []
    except PackageNotFoundError:
        installed = []
    inside = [Path(str(f.locate())).resolve() for f in installed if f.suffix == ".yaml"]
    yield from dict.fromkeys(
        folder for f in inside for folder in f.parents if folder.parts[-3:] == _INSTALLED.parts
    )
    yield Path(sysconfig.get_path("data")) / _INSTALLED
    yield root / _INSTALLED  # pip install --target


class _TaskLoader(yaml.SafeLoader):
    """Safe YAML in which lm-eval's `!function` tags are left as text: nothing is run."""


_TaskLoader.add_multi_constructor("!", lambda loader, suffix, node: f"!{suffix} {node.value}")


def _read(file: Path) -> TaskFile | None:
    """The task or group in a file; None for a file that others include."""
    try:
        config = yaml.load(text_of(file), Loader=_TaskLoader)
    except (*UNREADABLE, yaml.YAMLError) as error:
        raise DataError(f"{file} cannot be read: {error}. Mend it, or remove it.") from error
    if not isinstance(config, dict):
        return None
    given = config.get("dataset_kwargs")
    named = given.get("problem_set") if isinstance(given, dict) else None
    known = SETS.get(named) if isinstance(named, str) else None
    dataset = str(config.get("dataset_path", "")) if known is None else known.hub.path
    for kind in ("group", "task"):
        if isinstance(name := config.get(kind), str):
            return TaskFile(name, kind, file, dataset)
    return None
