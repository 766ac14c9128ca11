"""Puts the studies' scripts, which import each other by name, on the path of their tests."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

HERE = Path(__file__).resolve().parent
sys.path += [str(folder) for folder in sorted(HERE.iterdir()) if folder.is_dir()]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Check no shapes (`tests/conftest.py` says where they are), draw the same on every run."""
    random.seed(0)
    torch.manual_seed(0)
    jaxtyping.config.update("jaxtyping_disable", True)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return HERE.parent
