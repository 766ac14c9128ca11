"""The page on the paper's tables is made from what the paper prints and from the cost model."""

from __future__ import annotations

import re

import pytest
import yaml

from docs.reproduce import BANDWIDTH, PAGE, PRINTED, Ideal, page


def test_the_page_is_as_its_script_makes_it() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m docs.reproduce`"


def test_every_printed_cell_of_table_1_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    printed = yaml.safe_load(PRINTED.read_text(encoding="utf-8"))
    blocks = [block for block in printed["accuracy"] if block["source"] == "table 1"]
    rows = re.findall(r"^\| (.*?) \| ([\d.]+) \| [\d,]+ \| ", text, re.MULTILINE)
    assert rows == [cell for block in blocks for cell in block["cells"].items()]


def test_the_lower_bound_of_greedy_decoding_by_hand() -> None:
    """16 rows read 2 bytes a weight and, halfway, 256 + 512 tokens of cache at every step."""
    ideal = Ideal(parameters=7_000_000_000, cache=57_344, reward=4e9)
    low, high = ideal.hours("greedy", answers=500, length=1024)
    steps = 500 * 1024 / 16
    by_hand = steps * (14e9 + 16 * 768 * 57_344) / BANDWIDTH / 3600
    assert low == pytest.approx(by_hand) and high == pytest.approx(steps * 0.03 / 3600)
    assert ideal.hours("∇-Reasoner", 500, 1024)[0] > 8 * low  # 8 rollouts, and gradients
