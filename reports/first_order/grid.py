"""Reads study.yaml and chosen.yaml: cells, families of settings, and the units to be decoded.

A unit is one method with one setting over all problems of a split, with one pair and one decoding
seed. Its file is named after its family and the hash of all its options.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from nabla_eval.config import fingerprint, flatten
from nabla_eval.embedded import countdown
from nabla_eval.errors import ConfigError, DataError, suggest
from nabla_eval.methods.registry import METHODS, configure

HERE = Path(__file__).parent
ROLES = ("first-order", "control", "causal")
SPLITS = ("validation", "test")
KEYS = {"cells", "kinds", "reward_seeds", "splits", "width", "budgets", "families"}


@dataclass(frozen=True)
class Variant:
    """One setting of a family."""

    name: str
    family: str
    method: str
    options: Mapping[str, Any]

    @cached_property
    def config(self) -> Any:
        """The validated options of the method."""
        return configure(self.method, self.options)

    @cached_property
    def flat(self) -> dict[str, Any]:
        """All options, defaults included."""
        return {"method": self.method, **flatten(self.config)}

    @property
    def draws(self) -> bool:
        """Whether its answers depend on the decoding seed."""
        return METHODS[self.method].samples and self.flat.get("temperature") != 0

    @property
    def slug(self) -> str:
        family = re.sub(r"[^A-Za-z0-9]+", "-", self.family).strip("-")
        return f"{family}-{fingerprint(self.flat)[:8]}"


@dataclass(frozen=True)
class Family:
    """Settings of one method that are tuned against each other."""

    name: str
    role: str
    controls: tuple[str, ...]
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Split:
    problems: int
    decoding_seeds: tuple[int, ...]


@dataclass(frozen=True)
class Unit:
    """What one file of the study holds."""

    split: str
    cell: str
    kind: str
    reward_seed: int
    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        return (
            f"{self.split} {self.cell} {self.kind}-{self.reward_seed} {self.variant.name} "
            f"seed {self.seed}"
        )

    def file(self, runs: Path) -> Path:
        home = runs / self.split / self.cell / f"{self.kind}-{self.reward_seed}"
        return home / f"{self.variant.slug}-s{self.seed}.npz"


@dataclass(frozen=True)
class Study:
    cells: tuple[str, ...]
    kinds: tuple[str, ...]
    reward_seeds: tuple[int, ...]
    splits: Mapping[str, Split]
    width: int
    budgets: tuple[float, ...]
    families: Mapping[str, Family]

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """Every setting by name."""
        return {v.name: v for family in self.families.values() for v in family.variants}

    def named(self, role: str) -> list[str]:
        """Families of a role."""
        return [name for name, family in self.families.items() if family.role == role]

    def units(self, split: str, cell: str, kind: str, variant: Variant) -> Iterator[Unit]:
        """The units of one setting; what draws nothing needs one decoding seed."""
        seeds = self.splits[split].decoding_seeds
        for reward_seed, seed in itertools.product(self.reward_seeds, seeds):
            if variant.draws or seed == seeds[0]:
                yield Unit(split, cell, kind, reward_seed, variant, seed)


def numbers_of(cell: str) -> int:
    """How many numbers the problems of a cell have: its name begins with them."""
    return int(cell.split("-")[0])


@cache
def problems_of(split: str, numbers: int, count: int) -> list[countdown.Problem]:
    """The first problems of a split: the same for every cell with as many numbers."""
    return countdown.problems(count, split, numbers=numbers)  # type: ignore[arg-type]


def disjoint(study: Study) -> list[str]:
    """Assert that no problem is in both splits, whatever the order of its numbers; says so."""
    lines = []
    for numbers in sorted({numbers_of(cell) for cell in study.cells}):
        counts = {name: study.splits[name].problems for name in SPLITS}
        drawn = {name: problems_of(name, numbers, count) for name, count in counts.items()}
        ours, theirs = ({p.canonical for p in drawn[name]} for name in SPLITS)
        assert not ours & theirs, "validation and test problems overlap"
        assert all(countdown.split_of(p) == name for name in SPLITS for p in drawn[name])
        sizes = " and ".join(f"{count:,} {name}" for name, count in counts.items())
        lines.append(f"{numbers} numbers: {sizes} problems; none is in both splits.")
    return lines


# --- study.yaml ---------------------------------------------------------------------------------


def read_study(file: Path = HERE / "study.yaml") -> Study:
    """The checked content; raises `DataError` or `ConfigError` with the key that is wrong."""
    source = load_yaml(file)
    _refuse_unknown(file, source, KEYS)
    cells = _list(file, source, "cells", str)
    for cell in cells:
        if not re.fullmatch(r"[34]-\w+", cell):
            raise ConfigError(f"{file}: cell {cell!r} is not NUMBERS-POLICY. Try 3-strong.")
    splits = source.get("splits")
    if not isinstance(splits, dict) or set(splits) != set(SPLITS):
        raise ConfigError(f"{file}: splits has to have the keys {' and '.join(SPLITS)}.")
    families = source.get("families")
    if not isinstance(families, dict) or not families:
        raise ConfigError(f"{file}: families is {families!r}: it takes names with settings.")
    read = {str(name): _family(file, str(name), entry) for name, entry in families.items()}
    for family in read.values():
        for name in family.controls:
            if read.get(name, family).role != "control":
                known = [other for other in read if read[other].role == "control"]
                raise ConfigError(
                    f"{file}: {family.name} names the control {name!r}. {suggest(name, known)}"
                )
    return Study(
        cells,
        _list(file, source, "kinds", str),
        _list(file, source, "reward_seeds", int),
        {name: _split(file, name, splits[name]) for name in SPLITS},
        _whole(file, "width", source.get("width")),
        _list(file, source, "budgets", (int, float)),
        read,
    )


def load_yaml(file: Path) -> dict[str, Any]:
    """A mapping from a file of safe YAML; `DataError` where it is none."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{file} is not readable YAML: {error}. Mend it there.") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds {type(content).__name__} and not keys with values.")
    return content


def _refuse_unknown(file: Path, found: Mapping[str, Any], known: Iterable[str]) -> None:
    for key in found:
        if key not in known:
            raise ConfigError(f"{file}: unknown key {key!r}. {suggest(str(key), known)}")


def _list(file: Path, source: Mapping[str, Any], key: str, kind: Any) -> tuple[Any, ...]:
    values = source.get(key)
    if (
        not isinstance(values, list)
        or not values
        or any(not isinstance(value, kind) or isinstance(value, bool) for value in values)
        or len(set(values)) < len(values)
    ):
        raise ConfigError(f"{file}: {key} is {values!r}: it takes a list of different values.")
    return tuple(values)


def _whole(file: Path, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{file}: {key} is {value!r}: it takes an integer >= 1.")
    return value


def _split(file: Path, name: str, entry: Any) -> Split:
    if not isinstance(entry, dict):
        raise ConfigError(f"{file}: splits.{name} takes {{problems: 400, decoding_seeds: [0]}}.")
    _refuse_unknown(file, entry, {"problems", "decoding_seeds"})
    seeds = _list(file, entry, "decoding_seeds", int)
    return Split(_whole(file, f"splits.{name}.problems", entry.get("problems")), seeds)


def _family(file: Path, name: str, entry: Any) -> Family:
    if not isinstance(entry, dict):
        raise ConfigError(f"{file}: family {name} takes a role and settings, got {entry!r}.")
    _refuse_unknown(file, entry, {"role", "controls", "settings"})
    if entry.get("role") not in ROLES:
        raise ConfigError(
            f"{file}: {name} has role {entry.get('role')!r}. Try {' or '.join(ROLES)}."
        )
    grids = entry.get("settings")
    if not isinstance(grids, list) or not all(isinstance(g, dict) for g in grids) or not grids:
        raise ConfigError(f"{file}: settings of {name} take a list of options, got {grids!r}.")
    points = [point for grid in grids for point in _points(grid)]
    keys = [key for grid in grids for key in grid if len({str(p.get(key)) for p in points}) > 1]
    variants = []
    for point in points:
        words = [f"{key}={point[key]}" for key in dict.fromkeys(keys) if key in point]
        options = {key: value for key, value in point.items() if key != "method"}
        variant = Variant(" ".join([name, *words]), name, str(point.get("method")), options)
        try:
            _ = variant.config
        except ConfigError as error:
            raise ConfigError(f"{file}: {variant.name}: {error}") from error
        variants.append(variant)
    if len({variant.slug for variant in variants}) < len(variants):
        raise ConfigError(f"{file}: {name} has the same setting twice.")
    return Family(name, entry["role"], tuple(entry.get("controls", ())), tuple(variants))


def _points(grid: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    lists = [value if isinstance(value, list) else [value] for value in grid.values()]
    for values in itertools.product(*lists):
        yield dict(zip(grid, values, strict=True))


# --- chosen.yaml --------------------------------------------------------------------------------

Chosen = Mapping[str, Mapping[str, Mapping[str, Any]]]  # cell -> kind -> what was chosen


def read_chosen(file: Path, study: Study) -> Chosen:
    """What `tables.py tune` chose on the validation split; checked against the study."""
    if not file.exists():
        raise DataError(
            f"There is no {file}: the test split is for settings that were chosen on the "
            "validation split. Run `python reports/first_order/tables.py tune` first."
        )
    content = load_yaml(file)
    for cell, kinds in content.get("cells", {}).items():
        for kind, entry in kinds.items():
            for name in listed(entry):
                if name not in study.variants:
                    hint = suggest(name, study.variants)
                    raise DataError(f"{file}: {cell}, {kind}: no setting {name!r}. {hint}")
    return content["cells"]


def listed(entry: Mapping[str, Any]) -> list[str]:
    """Every setting that was chosen for a cell and a kind of reward model, each once."""
    names = [
        n for family in entry["families"].values() for n in (family["best"], *family["ladder"])
    ]
    coins = [*entry.get("rivals", {}).values()]
    coins += [coin for own in entry.get("controls", {}).values() for coin in own.values()]
    sides = [name for coin in coins for pair in coin.values() for name in pair]
    return list(dict.fromkeys([*names, *sides]))


def select(study: Study, words: Sequence[str] | None) -> list[Variant]:
    """Settings by their names or those of their families; all without words."""
    if not words:
        return list(study.variants.values())
    found: dict[str, Variant] = {}
    for word in words:
        if word in study.families:
            found |= {variant.name: variant for variant in study.families[word].variants}
        elif word in study.variants:
            found[word] = study.variants[word]
        else:
            hint = suggest(word, [*study.families, *study.variants])
            raise ConfigError(f"No family or setting {word!r}. {hint}")
    return list(found.values())
