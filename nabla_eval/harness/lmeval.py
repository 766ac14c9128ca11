"""lm-eval from inside: what it repeats for every evaluation, done once; its files, checked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from nabla_eval.errors import DataError


@contextmanager
def repeating_nothing() -> Iterator[None]:
    """Let lm-eval do once what it does for every evaluation or every document.

    That is listing the installed packages (seconds of subprocesses per evaluation), and compiling
    the task's Jinja templates (about a millisecond, three times per document). No result changes.
    """
    import lm_eval.evaluator
    import lm_eval.utils

    compiled = functools.lru_cache(maxsize=256)(lm_eval.utils.env.from_string)
    with (
        patch.object(lm_eval.evaluator, "add_env_info", _environment_once(_ENVIRONMENT)),
        patch.object(lm_eval.utils.env, "from_string", compiled),
    ):
        yield


_ENVIRONMENT: dict[str, Any] = {}


def _environment_once(known: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    import lm_eval.evaluator

    add_env_info = lm_eval.evaluator.add_env_info

    def add(storage: dict[str, Any]) -> None:
        if not known:
            add_env_info(known)
        storage.update(known)

    return add


def own_manager(folders: Sequence[str | Path], metadata: Mapping[str, Any] | None = None) -> Any:
    """lm-eval's `TaskManager` of the given folders alone: no search through its own thousands."""
    from lm_eval.tasks import TaskManager

    return TaskManager(
        include_path=[str(folder) for folder in folders],
        include_defaults=False,
        metadata=None if metadata is None else dict(metadata),
    )


def task_manager(
    names: Iterable[str],
    folders: Sequence[str | Path],
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """The cheapest `TaskManager` that knows all the names (10 to 20 s for one that knows all)."""
    from lm_eval.tasks import TaskManager

    own = own_manager(folders, metadata)
    if all(knows(own, name) for name in names):
        return own
    return TaskManager(
        include_path=[str(folder) for folder in folders],
        metadata=None if metadata is None else dict(metadata),
    )


def knows(manager: Any, name: str) -> bool:
    """Return whether a manager has a task, or a group with all that is in it."""
    entry = manager.task_index.get(name)
    if entry is None:
        return False
    config = entry.cfg or {}
    if "group" not in config:
        return True
    parts = config.get("task") or []
    members = [part.get("task") if isinstance(part, dict) else part for part in parts]
    return all(isinstance(member, str) and knows(manager, member) for member in members)


@contextmanager
def indexing_only(names: Iterable[str], folders: Sequence[str | Path]) -> Iterator[None]:
    """Have lm-eval's command line index only these folders, where they hold all of the names."""
    import lm_eval.tasks

    with ExitStack() as stack:
        own = own_manager(folders)
        if all(knows(own, name) for name in names):

            def manager(metadata: Any = None, **_: Any) -> Any:
                return lm_eval.tasks.manager.TaskManager(
                    include_path=list(map(str, folders)), include_defaults=False, metadata=metadata
                )

            stack.enter_context(patch.object(lm_eval.tasks, "TaskManager", manager))
        yield


def files_of(folder: str | Path, tasks: Iterable[str]) -> tuple[Path, dict[str, Path]]:
    """The newest results file in a run folder, and the newest samples of each task.

    Raises `DataError` where lm-eval could not write them (it only warns).
    """
    folder = Path(folder)
    results = sorted(folder.rglob("results_*.json"), key=lambda path: path.name)
    if not results:
        raise DataError(
            f"lm-eval wrote no results to {folder}. Is the disk full or the folder read-only?"
        )
    samples = {}
    for task in tasks:
        found = sorted(folder.rglob(f"samples_{task}_[0-9]*.jsonl"), key=lambda path: path.name)
        if not found:
            raise DataError(f"lm-eval wrote no samples of {task} to {folder}. Run again.")
        samples[task] = found[-1]
    return results[-1], samples
