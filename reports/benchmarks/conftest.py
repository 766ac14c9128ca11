"""What every benchmark is given: a clock, and the embedded pair."""

from __future__ import annotations

import pytest
from clock import Clock
from pytest_benchmark.fixture import BenchmarkFixture

from nabla_eval.api import load_pair
from nabla_eval.models.pair import Pair


@pytest.fixture
def clock(benchmark: BenchmarkFixture) -> Clock:
    return Clock(benchmark)


@pytest.fixture(scope="session")
def embedded() -> Pair:
    return load_pair(device="cpu")
