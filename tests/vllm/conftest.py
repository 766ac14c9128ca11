"""Tests of a real vLLM server: `make test-vllm` starts one, and says where it is."""

from __future__ import annotations

import os
from typing import Any

import pytest

URL = "NABLA_VLLM_URL"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave these tests out where there is no server, as in `make test`."""
    if URL in os.environ:
        return
    away = [item for item in items if item.get_closest_marker("vllm")]
    config.hook.pytest_deselected(items=away)
    items[:] = [item for item in items if item not in away]


@pytest.fixture(scope="session")
def url() -> str:
    return os.environ[URL]


@pytest.fixture(scope="session")
def pair() -> Any:
    """The embedded pair, whose policy is served."""
    from nabla_eval import load_pair

    return load_pair(dtype="float32", device="cpu")
