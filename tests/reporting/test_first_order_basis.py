"""The page of the first-order study: what its headline rests on, from the study's own numbers."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

HOME = Path(__file__).parents[2] / "reports/first_order"
MODULES = ("grid", "units", "decoded", "margins", "tuning", "rivals", "basis", "page")
TINY = {
    "cells": ["3-strong"],
    "kinds": ["plain"],
    "reward_seeds": [0, 1],
    "splits": {
        "validation": {"problems": 8, "decoding_seeds": [0]},
        "test": {"problems": 16, "decoding_seeds": [0]},
    },
    "width": 16,
    "budgets": [24],
    "families": {
        "nabla": {
            "role": "first-order",
            "controls": ["twin"],
            "settings": [{"method": "nabla"}],
        },
        "twin": {"role": "control", "settings": [{"method": "nabla", "steps": 0}]},
    },
}


@pytest.fixture(scope="module")
def study() -> Iterator[Any]:
    """The study's modules: scripts that import each other by name."""
    sys.path.insert(0, str(HOME))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(HOME))
        for name in MODULES:
            sys.modules.pop(name, None)


def test_the_headline_says_what_it_rests_on(study: Any, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(TINY))
    plan = study.grid.read_study(file)
    best = {
        name: figures(name, accuracy, 30.0) for name, accuracy in (("nabla", 0.5), ("twin", 0.51))
    }
    line = SimpleNamespace(family="nabla", own=best["nabla"], coin=SimpleNamespace(words="greedy"))
    measured = {
        "3-strong": {"plain": {"last-token AUC": [0.68, 0.96], study.basis.NEXT_BEST: [0.9]}}
    }
    areas, bed, steps, above = study.basis.basis(
        plan, {("3-strong", "plain"): best}, [(("3-strong", "plain"), line)], measured
    )
    assert "3-strong 0.68, 0.96. 0.9 is reached by 1 of 2 in 3-strong" in areas
    assert "90 % in 3-strong." in bed
    # The paper's rates: a reach of 0.118, and tanh(0.118 / 3) = 0.039.
    assert "lr 0.01 and resample temperature 1.5" in steps and "0.118" in steps and "0.04" in steps
    assert "50.0 % at 30.0 calls, beside the control that validation chose, greedy" in above
    assert "Of its own controls, twin has 51.0 % at 30.0 calls" in above
    dear = {**best, "twin": figures("twin", 0.51, 31.0)}
    *_, above = study.basis.basis(
        plan, {("3-strong", "plain"): dear}, [(("3-strong", "plain"), line)], {}
    )
    assert "own controls" not in above
    assert len(study.basis.basis(plan, {}, [], {})) == 1


def figures(name: str, accuracy: float, calls: float) -> Any:
    return SimpleNamespace(variant=SimpleNamespace(name=name), accuracy=accuracy, calls=calls)


def test_the_committed_page_says_what_its_own_numbers_say(study: Any) -> None:
    """From study.json and chosen.yaml alone; what was decoded is not in the repository."""
    content = json.loads((HOME / "study.json").read_text())
    plan = study.grid.read_study(HOME / "study.yaml")
    chosen = study.grid.read_chosen(HOME / "chosen.yaml", plan)
    best, ahead = {}, []
    for cell in plan.cells:
        for kind in plan.kinds:
            here = content["cells"][f"{cell}, {kind}"]
            found = {
                name: figures(name, run["accuracy"], run["calls"])
                for name, run in here["settings"].items()
            }
            entry = chosen[cell][kind]["families"]
            best[cell, kind] = {family: found[own["best"]] for family, own in entry.items()}
            for line in here["rivals"]:
                if line["equal"] == "calls" and line["ci95"][0] > 0:
                    own, words = line["first_order"], SimpleNamespace(words=line["control"])
                    family = plan.variants[own].family
                    ahead.append(
                        ((cell, kind), SimpleNamespace(family=family, own=found[own], coin=words))
                    )
    page = (HOME / "README.md").read_text()
    assert f"{len(ahead)} have an interval above zero" in page
    for text in study.basis.basis(plan, best, ahead, content["choosers"]):
        assert text in page
    assert study.page.choosers(content["choosers"]) in page
