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
from safetensors.torch import load_file, save_file

from nabla_eval.embedded import paths
from nabla_eval.errors import ConfigError, DataError

WEIGHTS = "model.safetensors"
HOME = Path(__file__).parents[2] / "reports/first_order"
MODULES = (
    "grid", "units", "decoded", "margins", "tuning", "rivals", "basis", "page", "plots", "decode",
    "tables",
)  # fmt: skip


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
    """The shipped pair in all places of the tiny study, under a hash of its own in each."""
    home = tmp_path_factory.mktemp("first_order")
    policy, reward = paths()
    shutil.copytree(policy, home / "pairs/3-strong/policy")
    for kind in TINY["kinds"]:
        for seed in TINY["reward_seeds"]:
            place = home / f"pairs/3/{kind}-{seed}/reward"
            shutil.copytree(reward, place)
            named = {"format": "pt", "seed": f"{kind}-{seed}"}
            save_file(load_file(reward / WEIGHTS), place / WEIGHTS, metadata=named)
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
    assert entry["champion"] == "prefix-gradient"
    assert set(entry["rivals"]["prefix-gradient"]) <= {"calls", "FLOPs", "seconds"}
    assert set(entry["controls"]["prefix-gradient"]) == {"best-of-n"}

    capsys.readouterr()
    assert study.tables.main(["report", *tables]) == 1
    assert "No cell is decoded in full" in capsys.readouterr().err
    assert study.decode.main(["--split", "test", *decode]) == 0
    assert study.tables.main(["report", *tables]) == 0
    page = (folder / "page/README.md").read_text()
    assert "16 test problems × 2 reward models (seeds 0, 1) × 2 decoding seeds" in page
    assert "8 validation and 16 test problems; none is in both splits" in page
    assert "p < 0.01, was found in 0 of 2 cells" in page
    for heading in ("## The goal", "plain reward models", "aligned", "The effect of alignment"):
        assert heading in page
    assert (folder / "page/cost-3-strong-plain.png").stat().st_size > 10_000
    # One policy, one reward model under four names: nothing can differ but by the names.
    runs = study.decoded.collect(
        study.grid.read_study(folder / "study.yaml"), "test", "3-strong", "plain", folder / "runs"
    )
    rights = runs["greedy"].array("right")
    assert rights.shape == (2, 1, 16) and (rights[0] == rights[1]).all()
    drawn = [run for name, run in runs.items() if name.startswith("best-of-n")]
    assert drawn and all(run.array("right").shape == (2, 2, 16) for run in drawn)
    assert set(study.decoded.versions(runs.values())) >= {"torch", "transformers"}


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


def runs(study: Any, name: str, right: Any, calls: Any, seconds: float = 1.0) -> Any:
    """A setting with these answers, [reward seeds][decoding seeds][problems]."""
    right = np.asarray(right, dtype=float)

    def unit(seed: int, values: np.ndarray) -> Any:
        ones = np.ones(len(values))
        arrays = {"right": values, "calls": calls * ones, "flops": 1e9 * calls * ones}
        meta = {
            "processor_seconds": seconds,
            "reward_seed": seed,
            "weights": {"policy": "p", "reward": f"r{seed}"},
        }
        return study.units.Result(Path("none"), meta, arrays)

    found = tuple(tuple(unit(i, values) for values in row) for i, row in enumerate(right))
    return study.decoded.Runs(SimpleNamespace(name=name), found)


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


def test_a_coin_stands_between_its_sides_at_the_cost(study: Any) -> None:
    cheap = runs(study, "cheap", [[[0, 0, 1, 1]]], 10)
    dear = runs(study, "dear", [[[1, 1, 1, 1]]], 30)
    mixed = study.margins.coin(cheap, dear, "calls", 15.0)
    assert mixed.words == "75% cheap, 25% dear" and mixed.cost("calls") == 15.0
    own = runs(study, "own", [[[1, 0, 1, 1]]], 15)
    found = study.margins.against(own, mixed, "calls")
    assert found.estimate.value == pytest.approx((0.75 - 0.25) / 4)
    assert study.margins.coin(cheap, dear, "calls", 99.0).words == "dear"
    assert study.margins.coin(cheap, dear, "calls", 1.0).words == "cheap"
    assert study.margins.coin(cheap, cheap, "calls", 15.0).words == "cheap"


def test_the_strongest_coin_may_skip_a_setting(study: Any) -> None:
    """Between 10 and 30 calls the line from cheap to dear runs above the setting in between."""
    cheap = runs(study, "cheap", [[[0, 0, 1, 1]]], 10)
    poor = runs(study, "poor", [[[0, 0, 0, 1]]], 18)
    dear = runs(study, "dear", [[[1, 1, 1, 1]]], 30)
    found = study.margins.strongest_coin([poor, dear, cheap], "calls", 20.0)
    assert (found.low, found.high, found.share) == (cheap, dear, 0.5)
    assert study.margins.strongest_coin([poor, dear, cheap], "calls", 9.0) is None
    assert study.margins.strongest_coin([dear, poor, cheap], "calls", 99.0).words == "dear"
    assert study.margins.strongest_coin([poor, cheap], "calls", 20.0).words == "cheap"


def test_intervals_at_equal_cost_know_that_costs_are_estimates(study: Any) -> None:
    """The same answers, but one of the two costs differs by problem: only the spread may change."""
    right = [[[0, 1, 0, 1, 1, 0, 1, 1]]]
    costs = np.array([1, 5, 2, 30, 9, 1, 16, 8.0])
    own = runs(study, "own", right, costs)
    cheap = runs(study, "cheap", [[[0, 0, 0, 1, 0, 0, 1, 1]]], 1.0)
    dear = runs(study, "dear", [[[1, 1, 1, 1, 1, 1, 1, 1]]], 19.0)
    other = study.margins.coin(cheap, dear, "calls", own.calls)
    found = study.margins.against(own, other, "calls")
    known = study.margins.against(own, other, "milliseconds")  # no problem has its own
    assert found.estimate.value == pytest.approx(known.estimate.value)
    assert found.by_seed == known.by_seed
    slope = (1 - 3 / 8) / 18
    plain = own.by_problem() - other.mixed(cheap.by_problem(), dear.by_problem())
    assert found.estimate.se == pytest.approx((plain - slope * costs).std(ddof=1) / 8**0.5)
    assert known.estimate.se == pytest.approx(plain.std(ddof=1) / 8**0.5)


def test_mended_and_broken_are_shares_of_greedys_answers(study: Any) -> None:
    greedy = runs(study, "greedy", [[[1, 1, 0, 0]], [[1, 1, 0, 0]]], 10)
    own = runs(study, "own", [[[1, 0, 1, 0]], [[1, 1, 1, 0]]], 10)
    assert study.margins.mended_and_broken(own, greedy) == (0.5, 0.25)


def test_settings_and_rivals_are_chosen_by_the_rule(study: Any) -> None:
    """Best accuracy, then calls; ladders within budgets; coins of any family at equal cost."""

    def family(role: str, *names: str) -> Any:
        return SimpleNamespace(role=role, variants=[SimpleNamespace(name=n) for n in names])

    families = {
        "greedy": family("control", "greedy"),
        "a": family("control", "a1", "a2"),
        "b": family("first-order", "b1", "b2"),
        "c": family("first-order", "c1"),
    }
    for name, entry in families.items():
        entry.name, entry.controls = name, ("a",)
    plan = SimpleNamespace(
        families=families,
        budgets=(20, 50),
        named=lambda role: [n for n, f in families.items() if f.role == role],
    )
    found = {
        "greedy": runs(study, "greedy", [[[0, 0, 0, 1]]], 10, seconds=0.5),
        "a1": runs(study, "a1", [[[0, 0, 1, 1]]], 15, seconds=9.0),
        "a2": runs(study, "a2", [[[1, 1, 1, 1]]], 40, seconds=1.0),
        "b1": runs(study, "b1", [[[0, 1, 1, 1]]], 18, seconds=2.0),
        "b2": runs(study, "b2", [[[0, 1, 1, 1]]], 16, seconds=2.0),
        "c1": runs(study, "c1", [[[0, 0, 0, 1]]], 12, seconds=0.7),
    }
    chosen = study.tuning.choose(plan, found)
    assert chosen["families"]["a"] == {"best": "a2", "ladder": ["a1", "a2"]}
    assert chosen["families"]["b"] == {"best": "b2", "ladder": ["b2"]}
    # At 16 calls: a1 and a little of a2. In seconds a2 is cheaper, and nothing is better.
    assert chosen["rivals"]["b"]["calls"] == ["a1", "a2"]
    assert chosen["rivals"]["b"]["seconds"] == ["a2", "a2"]
    assert chosen["controls"]["c"]["a"]["calls"] == ["greedy", "a1"]
    assert chosen["champion"] == "b"
    assert set(study.grid.listed(chosen)) == {"greedy", "a2", "a1", "b2", "c1"}
    line = next(x for x in study.rivals.rivalries(chosen, found) if x.equal == "calls")
    assert (line.family, line.coin.words, line.costs) == ("b", "96% a1, 4% a2", "16.0 / 16.0")
    assert line.margin.estimate.value == pytest.approx(0.75 - (0.5 + 0.5 / 25))
    assert "found in 0 of 1 cells" in study.page.verdict(
        {"3": {"plain": chosen}}, {("3", "plain"): [line]}
    )
    assert study.page.ahead({("3", "plain"): [line]}) == []
    with pytest.raises(DataError, match="a is not decoded in full"):
        study.tuning.choose(plan, {name: run for name, run in found.items() if name != "a2"})


def test_units_of_other_weights_do_not_mix(study: Any) -> None:
    one, two = (runs(study, name, [[[1, 0]], [[1, 0]]], 10) for name in ("one", "two"))
    study.decoded._one_policy({"one": one, "two": two}, "here")
    two.found[0][0].meta["weights"] = {"policy": "p", "reward": "another"}
    with pytest.raises(DataError, match="another reward model of seed 0 than other settings"):
        study.decoded._one_policy({"one": one, "two": two}, "here")
    for row in (*one.found, *two.found):
        row[0].meta["weights"] = {"policy": "p", "reward": "r"}
    with pytest.raises(DataError, match="two seeds have the same weights"):
        study.decoded._one_policy({"one": one, "two": two}, "here")


def test_a_torn_unit_is_refused(study: Any, folder: Path, tmp_path: Path) -> None:
    plan = study.grid.read_study(folder / "study.yaml")
    variant = plan.variants["greedy"]
    unit = next(plan.units("validation", "3-strong", "plain", variant))
    assert study.units.read(unit, plan, tmp_path) is None
    zeros = {name: np.zeros(8) for name in study.units.ARRAYS}
    study.units.write(unit.file(tmp_path), study.units.identity(unit), zeros)
    assert study.units.read(unit, plan, tmp_path) is not None
    whole = unit.file(tmp_path).read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        unit.file(tmp_path).write_bytes(whole[:length])
        with pytest.raises(DataError, match="no finished unit"):
            study.units.read(unit, plan, tmp_path)
