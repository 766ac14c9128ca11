"""What every test may use. Environment variables first: torch reads them when it is imported."""

from __future__ import annotations

import gc
import os
import random
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the network
os.environ.setdefault("MPLBACKEND", "agg")

import hypothesis
import jaxtyping
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# Where shapes in signatures are checked (pyproject.toml, --jaxtyping-packages): the rooms that have
# them, and the drawn programs, which reach every path through both. Elsewhere the engine is run for
# other reasons, and the checks would take a third of its time.
SHAPES = tuple(
    ROOT / "tests" / place
    for place in (
        "architecture", "differential/test_random_programs.py", "dto", "engine", "experimental",
        "models",
    )
)  # fmt: skip

# The same examples on every run: a failure that nobody can reproduce helps nobody. Wall-clock
# deadlines measure the machine and not the code.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, print_blob=True, max_examples=50
)
# For a search by hand: pytest --hypothesis-profile=search
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def log_of_transformers() -> None:
    """Make its handler now: else it keeps the stream of whichever command is tried first."""
    from transformers.utils import logging

    logging.get_logger()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the tests that share a fixture of their module to one process, which makes it once.

    Of several processes each begins with the files that take long, so that they end together; a
    file's tests stay together, or its fixtures would be made again.
    """
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)
    for item in items:
        found = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
        shared = any(each[-1].scope == "module" for each in found)
        if shared and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what all imports have made."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check shapes, or not, and draw the same numbers on every run, in the test's fixtures too."""
    random.seed(0)
    torch.manual_seed(0)
    checked = any(item.path.is_relative_to(place) for place in SHAPES)
    jaxtyping.config.update("jaxtyping_disable", not checked)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Optional folder of real problem sets and tokenizers beside the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the optional data folder ../shared/data is absent")
    return folder


@pytest.fixture(scope="session")
def real(shared_data: Path) -> Callable[[str], Any]:
    """Real tokenizers by name, each read once (it takes seconds)."""
    from transformers import AutoTokenizer

    return cache(lambda name: AutoTokenizer.from_pretrained(shared_data / "tokenizers" / name))


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Signals as a shell sets them, whoever started the tests: nohup and `&` ignore some."""
    numbers = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, usual) for number, usual in numbers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
