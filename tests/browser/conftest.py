"""One browser for a module's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chromium import Browser, browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as running:
        yield running
