"""Figures that people read: their axes can be read."""

from __future__ import annotations

import pytest

from nabla_eval.reporting.figures import scaling_plot


@pytest.mark.parametrize("costs", [(77.0, 104.0), (995.0, 1010.0), (20.0, 480.0), (3.0, 5000.0)])
def test_the_axis_of_costs_can_be_read(costs: tuple[float, float]) -> None:
    """Runs whose costs are near each other have ticks around them, though the axis is of logs."""
    rows = [
        {
            "curve": "a",
            "model_calls": calls,
            "accuracy": 0.5,
            "ci95": (0.4, 0.6),
            "n": 8,
            "task": "t",
        }
        for calls in costs
    ]
    figure = scaling_plot(rows, "t").draw()
    figure.canvas.draw()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    labels = [tick for tick in axes.get_xticklabels() if low <= tick.get_position()[0] <= high]
    assert 3 <= len({tick.get_text() for tick in labels}) <= 12
