"""The file of a sweep: a grid of methods and options, read into the cells that are to be run.

    tasks: [nabla_countdown]        # one or several
    seeds: [0, 1, 2, 3]
    limit: 500
    batch_size: 256
    grid:                           # model arguments; lists multiply
      n: [4, 8]
    variants:                       # each a name and further model arguments; lists multiply
      - {name: nabla, method: nabla}
      - {name: twin, method: nabla, steps: 0}
      - {name: best-of-n, method: best_of_n}

A variant's own arguments replace those of the grid, and null takes one out. An argument of the grid
that a variant's method does not have is left out of it, and a method that draws nothing needs one
seed, so `greedy` is run once and not per n and seed.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import yaml

from nabla_eval.errors import ConfigError, DataError, suggest
from nabla_eval.grading import GRADERS
from nabla_eval.harness.arguments import COMMON_NAMES, read
from nabla_eval.methods.registry import METHODS, option_names
from nabla_eval.options import fingerprint, require
from nabla_eval.runs.command import BATCH_SIZE, Evaluation
from nabla_eval.validation import UNREADABLE, Count, Positive, mismatch, text_of

# What every cell gets from elsewhere in the file.
TAKEN = {"seed": "seeds", "trace_dir": None, "batch_size": "batch_size", "device": "device"}
_MERGE = "tag:yaml.org,2002:merge"
LONGEST = 100  # characters of a folder's name


class _Content(TypedDict, total=False):
    """The file's keys. Those of lm-eval have the names and values of its command line."""

    name: Any
    tasks: str | list[str] | None
    grader: str | None
    seeds: int | list[int]
    limit: Positive | None
    batch_size: Count | None
    device: str | None
    num_fewshot: int | None
    gen_kwargs: dict[str, Any] | None
    apply_chat_template: bool | str | None
    fewshot_as_multiturn: bool | None
    system_instruction: str | None
    include_path: str | list[str] | None
    grid: dict[str, Any] | None
    variants: list[dict[str, Any]] | None


KEYS = tuple(_Content.__annotations__)
SHARED = (
    "limit", "device", "num_fewshot", "gen_kwargs", "apply_chat_template", "fewshot_as_multiturn",
    "system_instruction",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One evaluation of a sweep, and the run folder that it goes to."""

    name: str  # as tables call it: the variant and what varies; the same for all seeds and tasks
    folder: str
    task: str
    seed: int
    evaluation: Evaluation


@dataclass(frozen=True)
class SweepFile:
    """A sweep's file, read and checked."""

    name: str
    file: Path
    source: Mapping[str, Any]  # the file's content
    cells: tuple[Cell, ...]


def read_sweep(path: str | Path) -> SweepFile:
    """Read a sweep's file and check every cell of it. Loads no model.

    Raises `DataError` where it is no such file, and `ConfigError` (naming the file, the key, what
    it got and what to try) where it asks for something that cannot work.
    """
    file = Path(path)
    source = _load(file)
    try:
        return sweep_of(file, source)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def sweep_of(file: Path, source: Mapping[str, Any]) -> SweepFile:
    """Return the sweep that a file's content asks for."""
    _check(source)
    tasks, seeds = _listed(source.get("tasks")), _listed(source.get("seeds", 0))
    points = list(_points(source))
    names = [_folder(label, "", 0) for label, _ in points]
    for place, name in enumerate(names):
        if name in names[:place]:
            one, other = points[names.index(name)][0], points[place][0]
            called = f"{one!r} and {other!r} would share a folder: only ASCII tells folders apart"
            same = f"two variants are called {other!r}"
            raise ConfigError(f"{same if one == other else called}. Give one another name.")
    options = _options(source)
    cells = [
        _cell(label, arguments, task, seed, options)
        for label, arguments in points
        for task in tasks
        for seed in (seeds if _draws(arguments) else seeds[:1])
    ]
    return SweepFile(str(source.get("name") or file.stem), file, source, tuple(cells))


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, of which YAML would silently take the last."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.flattened = set[yaml.Node]()

    def flatten_mapping(self, node: Any) -> None:
        """Insert what `<<` merges, once; the mapping's own keys may replace it, not each other."""
        if node in self.flattened:
            return
        self.flattened.add(node)
        own = [key for key, _ in node.value]
        super().flatten_mapping(node)
        keys = [
            key.value if key.tag == _MERGE else self.construct_object(key, deep=True) for key in own
        ]
        for at, key in enumerate(keys):
            if key in keys[:at]:
                line = own[at].start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: the key {key!r} is there twice")


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(text_of(file), Loader=_UniqueKeys)
        # A lone surrogate, which YAML can spell, is no text: nothing could read what is written.
        json.dumps(content, default=str, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise DataError(f"There is no file {file}. Give the YAML file of a sweep.") from None
    except (*UNREADABLE, yaml.YAMLError) as error:
        raise DataError(f"{file} is not readable YAML: {error}. Mend it there.") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{file} holds {type(content).__name__} and not keys with values. Try:\n"
            "tasks: nabla_countdown\ngrid: {method: [nabla, best_of_n], n: [4, 8]}"
        )
    return content


def _check(source: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for keys that there are not, and for values that cannot work."""
    for key in source:
        if key not in KEYS:
            own = {name for method in METHODS for name in option_names(method)} | COMMON_NAMES
            hint = "It is a model argument: write it below `grid:` or in one of the `variants:`."
            hint = hint if key in own else suggest(str(key), KEYS)
            if key in TAKEN:
                hint = f"Did you mean `{TAKEN[key]}:`?" if TAKEN[key] else "Leave it out."
            raise ConfigError(f"unknown key {key!r}. {hint}")
    if wrong := mismatch(source, _Content):
        raise ConfigError(f"{wrong}.")
    for key, example in (("tasks", "nabla_countdown"), ("seeds", "[0, 1]")):
        if not _listed(source.get(key, 0 if key == "seeds" else None)):
            raise ConfigError(f"{key} is missing or empty. Try `{key}: {example}`.")
    grader = source.get("grader")
    require(grader is None or grader in GRADERS, "grader", grader, " or ".join(GRADERS))
    named = "a list, each item as {name: twin, steps: 0}"
    require(source.get("variants", [{}]) != [], "variants", [], named)


def _options(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return lm-eval's options that all cells share, by the names of its command line."""
    options = {name: source.get(name) for name in SHARED}
    options["batch_size"] = source.get("batch_size") or BATCH_SIZE
    options["include_path"] = _listed(source.get("include_path"))
    options["metadata"] = {"grader": source["grader"]} if source.get("grader") else None
    if options["fewshot_as_multiturn"] and not options["apply_chat_template"]:
        options["fewshot_as_multiturn"] = None  # it says nothing there, and lm-eval refuses it
    return options


def _points(source: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the model arguments of every variant at every point of its grid."""
    for place, variant in enumerate(source.get("variants") or [{}]):
        where = f"variants[{place}]" if source.get("variants") else "grid"
        own = dict(variant)
        name = own.pop("name", None)
        sound = name is None or (isinstance(name, str) and name.strip())
        require(bool(sound), f"{where}.name", name, "a text")
        yield from _product(where, name, source.get("grid") or {}, own)


def _product(
    where: str, name: str | None, grid: Mapping[str, Any], own: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the combinations of all lists, each with a name that tells it from the others."""
    choices = {}
    for key, values in {**grid, **own}.items():
        there = where if key in own else "grid"
        if key in TAKEN or key in KEYS:
            top = TAKEN.get(key, key)
            instead = f"Write it at the top, as `{top}:`." if top else "Leave it out."
            raise ConfigError(f"{there} sets {key}={values!r}. {instead}")
        choices[key] = values if isinstance(values, list) else [values]
        sound = choices[key] and not any(isinstance(part, (list, dict)) for part in choices[key])
        require(bool(sound), f"{there}.{key}", values, "a value or a list of values")
    axes = [key for key, values in {**grid, **own}.items() if isinstance(values, list)]
    seen: list[dict[str, Any]] = []
    for chosen in itertools.product(*choices.values()):
        options = {k: v for k, v in zip(choices, chosen, strict=True) if v is not None}
        method = str(options.get("method", "nabla"))
        options = {
            key: value
            for key, value in options.items()
            if key in own or not _of_another_method(key, method)
        }
        if options not in seen:
            seen.append(options)
            yield _label(name, method, options, axes), options


def _draws(options: Mapping[str, Any]) -> bool:
    """Return whether a method draws anything that depends on a seed."""
    method = str(options.get("method", "nabla"))
    return method not in METHODS or METHODS[method].samples


def _of_another_method(key: str, method: str) -> bool:
    """Return whether an argument is an option of methods, and not of this one."""
    if method not in METHODS or key in COMMON_NAMES or key in option_names(method):
        return False
    return any(key in option_names(other) for other in METHODS)


def _label(name: str | None, method: str, options: Mapping[str, Any], axes: Iterable[str]) -> str:
    parts = [name or method]
    for key in axes:
        if key in options and not (key == "method" and name is None):
            parts.append(str(options[key]) if key == "method" else f"{key}={options[key]}")
    return " ".join(parts)


def _cell(
    label: str, arguments: Mapping[str, Any], task: str, seed: int, options: Mapping[str, Any]
) -> Cell:
    complete = {**arguments, "seed": seed}
    try:
        evaluation = Evaluation((task,), complete, read(complete), options)
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from error
    return Cell(label, _folder(label, task, seed), task, seed, evaluation)


def _folder(label: str, task: str, seed: int) -> str:
    """Return a folder name that stays when other variants, tasks or seeds are added."""
    text = f"{label}-{task}-s{seed}"
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "_", text.replace("=", "")).strip("._")
    if len(safe) <= LONGEST:
        return safe
    return f"{safe[: LONGEST - 9]}-{fingerprint({'': text})[:8]}"


def _listed(value: Any) -> list[Any]:
    """Return a value or a list of values as a list, without repeats and empty names."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    return list(dict.fromkeys(v for v in values if v != ""))
