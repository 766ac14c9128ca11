"""lm-eval's list of installed packages takes seconds of subprocesses; no test here reads it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_task import write_task

from nabla_eval import embedded


@pytest.fixture(scope="session")
def no_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")
        yield


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task of a few problems, for --include_path."""
    if not all(path.is_dir() for path in embedded.paths()):
        pytest.skip("the embedded weights are absent")
    return write_task(tmp_path_factory.mktemp("tasks"))
