"""A two-layer Countdown policy with random weights, and jobs that train it in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nabla_eval.embedded.policy import PolicyRecipe, as_llama, build_policy
    from nabla_eval.embedded.train import save

    folder = tmp_path_factory.mktemp("policy")
    save(
        as_llama(build_policy(PolicyRecipe(hidden=32, layers=2, heads=2, feed_forward=32))), folder
    )
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The same bits from the same seed."""
    from nabla_eval.embedded.policy import one_thread

    with one_thread():
        yield


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Write rows (or raw lines) to a file; returns its name."""

    def write(rows: Sequence[Any], name: str = "rows.jsonl") -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return str(tmp_path / name)

    return write
