"""The study of first-order methods: decoding, tuning and tables end to end, and its statistics."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from nabla_eval.embedded import paths
from nabla_eval.errors import ConfigError, DataError

HOME = Path(__file__).parents[2] / "reports/first_order"
MODULES = ("grid", "units", "results", "tuning", "margins", "page", "plots", "decode", "tables")


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


# --- end to end ---------------------------------------------------------------------------------

TINY = {
    "cells": ["3-strong"],
    "kinds": ["plain", "aligned"],
    "reward_seeds": [0, 1],
    "splits": {
        "validation": {"problems": 8, "decoding_seeds": [0]},
        "test": {"problems": 16, "decoding_seeds": [0, 1]},
    },
    "width": 16,
    "budgets": [24],
    "families": {
        "greedy": {"role": "control", "settings": [{"method": "greedy"}]},
        "best-of-n": {
            "role": "control",
            "settings": [{"method": "best_of_n", "stop_reward": 0.0, "n": [2, 4]}],
        },
        "prefix-gradient": {
            "role": "first-order",
            "controls": ["best-of-n"],
            "settings": [{"method": "prefix_gradient", "beta": [1.0, 3.0]}],
        },
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped pair in all places of the tiny study."""
    home = tmp_path_factory.mktemp("first_order")
    policy, reward = paths()
    shutil.copytree(policy, home / "pairs/3-strong/policy")
    for kind in TINY["kinds"]:
        for seed in TINY["reward_seeds"]:
            shutil.copytree(reward, home / f"pairs/3/{kind}-{seed}/reward")
    (home / "study.yaml").write_text(yaml.safe_dump(TINY))
    return home


def test_the_study_from_weights_to_page(
    study: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--study", f"{folder}/study.yaml", "--chosen", f"{folder}/chosen.yaml"]
    decode = ["--pairs", f"{folder}/pairs", "--output", f"{folder}/runs", *files]
    tables = ["--runs", f"{folder}/runs", "--pairs", f"{folder}/none", *files]
    tables += ["--output", f"{folder}/page"]

    assert study.decode.main(["--split", "test", *decode]) == 1
    assert "tables.py tune" in capsys.readouterr().err  # nothing was chosen yet
    assert study.decode.main(["--split", "validation", *decode]) == 0
    assert "20 units, 0 done before, 20 to do" in capsys.readouterr().out
    assert study.decode.main(["--split", "validation", *decode]) == 0
    assert "20 units, 20 done before, 0 to do" in capsys.readouterr().out

    assert study.tables.main(["tune", *tables]) == 0
    entry = yaml.safe_load((folder / "chosen.yaml").read_text())["cells"]["3-strong"]["plain"]
    assert entry["families"]["greedy"] == {"best": "greedy", "ladder": ["greedy"]}
    assert set(entry["rivals"]["prefix-gradient"]) <= {"calls", "seconds"}

    with pytest.raises(SystemExit, match="No cell is decoded in full"):
        study.tables.main(["report", *tables])
    assert study.decode.main(["--split", "test", *decode]) == 0
    assert study.tables.main(["report", *tables]) == 0
    page = (folder / "page/README.md").read_text()
    assert "16 test problems × 2 reward models (seeds 0, 1) × 2 decoding seeds" in page
    assert "8 validation and 16 test problems; none is in both splits" in page
    for heading in ("## The goal", "plain reward models", "aligned", "The effect of alignment"):
        assert heading in page
    assert (folder / "page/cost-3-strong-plain.png").stat().st_size > 10_000
    # One policy, one reward model under four names: nothing can differ but by the names.
    runs = study.results.collect(
        study.grid.read_study(folder / "study.yaml"), "test", "3-strong", "plain", folder / "runs"
    )
    rights = runs["greedy"].array("right")
    assert rights.shape == (2, 1, 16) and (rights[0] == rights[1]).all()
    drawn = [run for name, run in runs.items() if name.startswith("best-of-n")]
    assert drawn and all(run.array("right").shape == (2, 2, 16) for run in drawn)


def test_runs_of_other_weights_are_refused(
    study: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs"
    shutil.copytree(folder / "pairs", pairs)
    words = ["--pairs", str(pairs), "--output", f"{tmp_path}/runs", "--split", "validation"]
    words += ["--study", f"{folder}/study.yaml", "--variants", "greedy", "--seeds", "0"]
    assert study.decode.main([*words, "--kinds", "plain"]) == 0
    with (pairs / "3/plain-0/reward/model.safetensors").open("ab") as weights:
        weights.write(b" ")
    study.units._sha256.cache_clear()  # as in a new process
    assert study.decode.main([*words, "--kinds", "plain"]) == 1
    assert "runs of different weights" in capsys.readouterr().err
    assert study.decode.main([*words, "--kinds", "shiny"]) == 1
    assert "no 'shiny' in kinds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": ["strong"]}, "NUMBERS-POLICY"),
        ({"width": 0}, "width is 0"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"families": {"f": {"role": "best", "settings": [{"method": "greedy"}]}}}, "role 'best'"),
        ({"families": {"f": {"role": "control", "settings": [{"method": "greed"}]}}}, "greedy"),
    ],
)
def test_a_wrong_study_is_refused(
    study: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**TINY, **change}))
    with pytest.raises(ConfigError, match=message):
        study.grid.read_study(file)
    file.write_text("- a list")
    with pytest.raises(DataError, match="holds list"):
        study.grid.read_study(file)


# --- statistics ---------------------------------------------------------------------------------


def runs(
    study: Any, name: str, right: Any, calls: float, seconds: float = 1.0, reward: float = 0.0
) -> Any:
    """A setting with these answers, [reward seeds][decoding seeds][problems]."""
    right = np.asarray(right, dtype=float)

    def unit(values: np.ndarray) -> Any:
        ones = np.ones(len(values))
        arrays = {"right": values, "calls": calls * ones, "flops": 1e9 * ones, "reward": reward}
        meta = {"processor_seconds": seconds, "versions": {}}
        return study.units.Result(Path("none"), meta, arrays)

    found = tuple(tuple(unit(values) for values in row) for row in right)
    return study.results.Runs(SimpleNamespace(name=name), found)


def test_margins_are_paired_by_problem_over_both_kinds_of_seeds(study: Any) -> None:
    own = runs(study, "own", [[[1, 1, 0, 1], [1, 0, 0, 1]], [[1, 1, 1, 1], [1, 1, 0, 0]]], 10)
    other = runs(study, "other", [[[0, 1, 0, 1]], [[0, 1, 0, 0]]], 10)
    found = study.margins.margin(own, other)
    # By problem: 1, 3/4, 1/4, 3/4 and 0, 1, 0, 1/2: differences 1, -1/4, 1/4, 1/4.
    assert found.estimate.value == pytest.approx(0.3125)
    assert found.estimate.clusters == 4
    assert found.by_seed == pytest.approx((0.625 - 0.5, 0.75 - 0.25))
    assert found.p == pytest.approx(8 / 16)  # of 16 signs, 8 have a sum as far from 0 as 5/4
    assert study.margins.spread(found.by_seed) == "+12.5, +50.0"
    both = study.margins.corrected([found, found])
    assert [m.holm for m in both] == pytest.approx([1.0, 1.0])


def test_a_mixture_stands_between_its_neighbours_at_the_cost(study: Any) -> None:
    cheap = runs(study, "cheap", [[[0, 0, 1, 1]]], 10)
    dear = runs(study, "dear", [[[1, 1, 1, 1]]], 30)
    mixed = study.margins.mixture([dear, cheap], "calls", 15.0)
    assert mixed.words == "75% cheap, 25% dear" and mixed.cost == 15.0
    assert mixed.right.tolist() == [[0.25, 0.25, 1, 1]]
    own = runs(study, "own", [[[1, 0, 1, 1]]], 15)
    found = study.margins.against_mixture(own, mixed)
    assert found.estimate.value == pytest.approx((0.75 - 0.25) / 4)
    assert study.margins.mixture([dear, cheap], "calls", 9.0) is None
    assert study.margins.mixture([dear, cheap], "calls", 99.0).words == "dear"


def test_mended_and_broken_are_shares_of_greedys_answers(study: Any) -> None:
    greedy = runs(study, "greedy", [[[1, 1, 0, 0]], [[1, 1, 0, 0]]], 10)
    own = runs(study, "own", [[[1, 0, 1, 0]], [[1, 1, 1, 0]]], 10)
    assert study.margins.mended_and_broken(own, greedy) == (0.5, 0.25)


def test_settings_and_rivals_are_chosen_by_the_rule(study: Any) -> None:
    """Best accuracy, then calls; ladders within budgets; rivals of any family at equal cost."""

    def family(role: str, *names: str) -> Any:
        return SimpleNamespace(role=role, variants=[SimpleNamespace(name=n) for n in names])

    families = {"a": family("control", "a1", "a2"), "b": family("first-order", "b1", "b2")}
    for name, entry in families.items():
        entry.name = name
    plan = SimpleNamespace(
        families=families,
        budgets=(20, 50),
        named=lambda role: [n for n, f in families.items() if f.role == role],
    )
    found = {
        "a1": runs(study, "a1", [[[0, 0, 1, 1]]], 15, seconds=9.0),
        "a2": runs(study, "a2", [[[1, 1, 1, 1]]], 40, seconds=1.0),
        "b1": runs(study, "b1", [[[0, 1, 1, 1]]], 18, seconds=2.0),
        "b2": runs(study, "b2", [[[0, 1, 1, 1]]], 16, seconds=2.0),
    }
    chosen = study.tuning.choose(plan, found)
    assert chosen["families"]["a"] == {"best": "a2", "ladder": ["a1", "a2"]}
    assert chosen["families"]["b"] == {"best": "b2", "ladder": ["b2"]}
    assert chosen["rivals"]["b"] == {"calls": "a1", "seconds": "a2"}
    assert study.grid.listed(chosen) == ["a2", "a1", "b2"]
