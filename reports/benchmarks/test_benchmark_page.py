"""The page says what the figures say, and keeps the other device's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_page import main


def run_file(folder: Path, *figures: dict) -> Path:
    machine = {"cpu": {"brand_raw": "A processor"}, "python_version": "3.11.7"}
    benchmarks = [{"extra_info": figure} for figure in (*figures, {})]
    path = folder / "run.json"
    path.write_text(json.dumps({"machine_info": machine, "benchmarks": benchmarks}))
    return path


def test_goals_are_judged_by_the_median_and_the_other_section_stays(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks"
    gain = {"figure": "a", "ratios": [19.0, 30.0, 21.0], "problems": 32, "naive_problems": 4}
    main(run_file(tmp_path, gain), page)
    text = page.with_suffix(".md").read_text()
    assert "21.0 (19.0 to 30.0) times faster | met" in text
    assert "Not measured: no GPU" in text and text.count("Not measured in this run.") == 8
    card = {"figure": "gpu", "card": "A card", "what": "decode", "ratios": [1.5], "detail": "rows"}
    main(run_file(tmp_path, card), page)
    text = page.with_suffix(".md").read_text()
    assert "21.0 (19.0 to 30.0)" in text and "| decode | 1.50 (1.50 to 1.50) | rows |" in text
    main(run_file(tmp_path, {**gain, "ratios": [2.0, 30.0, 19.9]}), page)
    text = page.with_suffix(".md").read_text()
    assert "19.9 (2.0 to 30.0) times faster | **not met**" in text and "A card" in text


def test_a_run_without_figures_leaves_the_page_alone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no figures"):
        main(run_file(tmp_path), tmp_path / "benchmarks")
    assert not (tmp_path / "benchmarks.md").exists()
