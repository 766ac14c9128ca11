"""The page of memory is the arithmetic's, and its batches fit and no larger ones do."""

from __future__ import annotations

from pathlib import Path

import memory_page

REPORT = Path(__file__).parents[1] / "memory.md"


def test_the_page_fits_what_it_says_fits() -> None:
    page = memory_page.page()
    assert "not measured" in page and "152,064" in page
    assert page == REPORT.read_text(encoding="utf-8"), f"stale: {memory_page.COMMAND}"
    plans = memory_page.plans()
    for plan in plans:
        assert memory_page.needed(plan, plan.fits) <= memory_page.USABLE
        assert memory_page.needed(plan, plan.fits + 1) > memory_page.USABLE
    fits = {plan.name: plan.fits for plan in plans}
    assert list(fits.values()) == sorted(fits.values())
    assert 1 <= fits[plans[0].name] < fits[plans[-1].name]
