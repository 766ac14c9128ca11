"""What `make soak` calls growth."""

from __future__ import annotations

from dataclasses import replace

import pytest
from soak import Held, grown

CALM = [Held(float(i), 20 * i, i, 10**9, 6, 8, 0) for i in range(11)]


def test_caches_that_fill_early_and_noise_are_no_growth():
    early = [replace(CALM[0], bytes=5 * 10**8, files=3), *CALM[1:]]
    noisy = [replace(held, bytes=held.bytes + 10**7 * (i % 3)) for i, held in enumerate(early)]
    assert grown(CALM) == grown(early) == grown(noisy) == []
    assert grown(CALM[:1]) == []


@pytest.mark.parametrize("name", ["bytes", "files", "threads", "rows"])
def test_what_grows_is_named_with_its_numbers(name):
    rising = [replace(held, **{name: getattr(held, name) * (1 + i) + i}) for i, held in
              enumerate(CALM)]  # fmt: skip
    (found,) = grown(rising)
    assert found.startswith(f"{name}: ") and "before" in found
