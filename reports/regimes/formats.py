"""How the page words numbers."""

from __future__ import annotations

import math
from typing import Any

from margins import SEEDS

Cell = dict[str, Any]


def points(m: Cell) -> str:
    """Word a margin in points with its interval."""
    if math.isnan(m["low"]):
        return f"{100 * m['value']:+.1f}"
    return f"{100 * m['value']:+.1f} [{100 * m['low']:+.1f}, {100 * m['high']:+.1f}]"


def percent(values: list[float]) -> str:
    """Word a mean of shares in %."""
    return f"{100 * sum(values) / len(values):.1f}"


def by_seed(values: list[float]) -> str:
    """Word the same, with each seed beside it."""
    return f"{percent(values)} ({', '.join(f'{100 * v:.0f}' for v in values)})"


def goal(h: Cell) -> str:
    """Say whether the goal was met."""
    if len(h["least"]["by_seed"]) < SEEDS:
        return "not judged"
    return "met" if h["leads"] else "not met"


def p_value(p: float) -> str:
    """Word a p value."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def unit(unit: str) -> str:
    """Name what is equal."""
    return "FLOPs" if unit == "flops" else unit


def amount(limit: float, unit: str) -> str:
    """Word a limit of calls, FLOPs or seconds."""
    if unit == "calls":
        return f"{limit:g}"
    return f"{limit / 1e6:.2f} MFLOP" if unit == "flops" else f"{1000 * limit:.0f} ms"
