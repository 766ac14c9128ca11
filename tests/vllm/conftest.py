"""Tests of a real vLLM server: `make test-vllm` starts one, and says where it is."""

from __future__ import annotations

import os
from typing import Any

import pytest

URL, POLICY, NAME = "NABLA_VLLM_URL", "NABLA_VLLM_POLICY", "NABLA_VLLM_NAME"


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
def is_trained() -> bool:
    """Whether the served policy is the embedded one."""
    return os.environ[NAME] == "embedded"


@pytest.fixture(scope="session")
def pair(is_trained: bool) -> Any:
    """The served policy, loaded here; with the embedded reward model where it fits."""
    from nabla_eval import load_pair
    from nabla_eval.models.load import policy_from
    from nabla_eval.models.pair import Pair

    if is_trained:
        return load_pair(dtype="float32", device="cpu")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = os.environ[POLICY]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    return Pair(policy_from(model, AutoTokenizer.from_pretrained(folder)), None)
