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
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nabla_eval.errors import ConfigError, DataError, suggest
from nabla_eval.grading import GRADERS
from nabla_eval.harness.arguments import COMMON_NAMES, Arguments, read
from nabla_eval.harness.evaluation import Settings
from nabla_eval.harness.folder import manifest_of
from nabla_eval.methods.registry import METHODS, option_names
from nabla_eval.options import fingerprint
from nabla_eval.traces.manifest import Manifest
from nabla_eval.validation import text_of

KEYS = (
    "name", "tasks", "grader", "seeds", "limit", "batch_size", "device", "num_fewshot",
    "gen_kwargs", "apply_chat_template", "fewshot_as_multiturn", "system_instruction",
    "include_path", "grid", "variants",
)  # fmt: skip
# What every cell gets from elsewhere.
TAKEN = {"seed": "seeds", "trace_dir": None, "batch_size": "batch_size", "device": "device"}
LONGEST = 100  # characters of a folder's name


@dataclass(frozen=True)
class Cell:
    """One evaluation of a sweep, and the run folder that it goes to."""

    name: str  # as tables call it: the variant and what varies; the same for all seeds and tasks
    folder: str
    task: str
    seed: int
    options: Mapping[str, Any]  # model arguments
    arguments: Arguments  # what they were read as

    def manifest(self, settings: Settings, command: str) -> Manifest:
        """The `run.json` of this cell."""
        return manifest_of(
            self.arguments,
            self.options,
            [self.task],
            command=command,
            name=self.name,
            limit=settings.limit,
            options=settings.options,
            device=settings.device,
            batch_size=settings.batch_size,
        )


@dataclass(frozen=True)
class Study:
    """A sweep's file, read: its cells and the options of lm-eval that they share."""

    name: str
    file: Path
    source: Mapping[str, Any]  # the file's content
    settings: Settings
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]


def read_study(path: str | Path) -> Study:
    """Read a sweep's file and check every cell of it. Nothing is loaded.

    Raises `DataError` where it is no such file, and `ConfigError` (naming the file, the key, what
    it got and what to try) where it asks for something that cannot work.
    """
    file = Path(path)
    source = _load(file)
    unknown = [key for key in source if key not in KEYS]
    if unknown:
        raise ConfigError(f"{file}: unknown key {unknown[0]!r}. {_hint(str(unknown[0]))}")
    tasks = tuple(_texts(file, "tasks", source.get("tasks")))
    listed = [_whole(file, "seeds", seed) for seed in _listed(source.get("seeds", 0))]
    seeds = tuple(dict.fromkeys(listed))
    _refuse_empty(file, {"tasks": tasks, "seeds": seeds})
    points = list(_points(file, source))
    _refuse_twins(file, points)
    cells = [
        _cell(file, label, options, task, seed)
        for label, options in points
        for task in tasks
        for seed in (seeds if _draws(options) else seeds[:1])
    ]
    return Study(
        name=str(source.get("name", file.stem)),
        file=file,
        source=source,
        settings=_settings(file, source),
        tasks=tasks,
        seeds=seeds,
        cells=tuple(cells),
    )


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for at, key in enumerate(keys):
            if key in keys[:at]:
                line = node.value[at][0].start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: the key {key!r} is there twice")
        return super().construct_mapping(node, deep)


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.load(text_of(file), Loader=_Loader)
    except FileNotFoundError:
        raise DataError(f"There is no file {file}. Give the YAML file of a sweep.") from None
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{file} is not readable YAML: {error}. Mend it there.") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{file} holds {type(content).__name__} and not keys with values. Try:\n"
            "tasks: nabla_countdown\ngrid: {method: [nabla, best_of_n], n: [4, 8]}"
        )
    return content


def _hint(key: str) -> str:
    """Where an unknown key of the file may have been meant to stand."""
    options = {name for method in METHODS for name in option_names(method)} | COMMON_NAMES
    if key in options:
        return "It is a model argument: write it below `grid:` or in one of the `variants:`."
    return suggest(key, KEYS)


def _points(file: Path, source: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every name with its model arguments."""
    grid = _mapping(file, "grid", source.get("grid") or {})
    variants = source.get("variants")
    if variants is None:
        variants = [{}]
    if not isinstance(variants, list) or not variants:
        raise _wrong(file, "variants", variants, "a list, each item as {name: twin, steps: 0}")
    for place, variant in enumerate(variants):
        where = f"variants[{place}]"
        own = dict(_mapping(file, where, variant))
        name = own.pop("name", None)
        if name is not None and not (isinstance(name, str) and name.strip()):
            raise _wrong(file, f"{where}.name", name, "a text")
        yield from _product(file, where if source.get("variants") else "grid", name, grid, own)


def _product(
    file: Path, where: str, name: str | None, grid: Mapping[str, Any], own: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The combinations of all lists, each with a name that tells it from the others."""
    merged = {**grid, **own}
    for key, values in merged.items():
        if key in TAKEN:
            instead = f"Write it at the top, as {TAKEN[key]}:." if TAKEN[key] else "Leave it out."
            raise ConfigError(f"{file}: {where} sets {key}={values!r}. {instead}")
        if (
            isinstance(values, dict)
            or values == []
            or any(isinstance(value, (list, dict)) for value in _listed(values))
        ):
            raise _wrong(file, f"{where}.{key}", values, "a value or a list of values")
    axes = [key for key, values in merged.items() if isinstance(values, list)]
    seen: list[dict[str, Any]] = []
    for chosen in itertools.product(*(_listed(values) for values in merged.values())):
        options = {k: v for k, v in zip(merged, chosen, strict=True) if v is not None}
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


def _cell(file: Path, label: str, options: Mapping[str, Any], task: str, seed: int) -> Cell:
    complete = {**options, "seed": seed}
    try:
        arguments = read(complete)
    except ConfigError as error:
        raise ConfigError(f"{file}: {label}: {error}") from error
    return Cell(label, _folder(label, task, seed), task, seed, complete, arguments)


def _folder(label: str, task: str, seed: int) -> str:
    """A folder name that stays the same when other variants, tasks or seeds are added."""
    text = f"{label}-{task}-s{seed}"
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "_", text.replace("=", "")).strip("._")
    if len(safe) <= LONGEST:
        return safe
    return f"{safe[: LONGEST - 9]}-{fingerprint({'': text})[:8]}"


def _refuse_twins(file: Path, points: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    labels = [_folder(label, "", 0) for label, _ in points]
    for place, label in enumerate(labels):
        if label in labels[:place]:
            raise ConfigError(
                f"{file}: two variants are called {points[place][0]!r}. Give one another name."
            )


def _settings(file: Path, source: Mapping[str, Any]) -> Settings:
    def given(key: str, kinds: type | tuple[type, ...], wanted: str) -> Any:
        value = source.get(key)
        wrong = isinstance(value, bool) and bool not in (
            kinds if isinstance(kinds, tuple) else (kinds,)
        )
        if value is not None and (wrong or not isinstance(value, kinds)):
            raise _wrong(file, key, value, wanted)
        return value

    limit = given("limit", (int, float), "a number of problems, or a share below 1")
    if limit is not None and limit <= 0:
        raise _wrong(file, "limit", limit, "a number of problems, or a share below 1")
    shots = given("num_fewshot", int, "an integer >= 0")
    batch = given("batch_size", int, "an integer >= 1")
    if batch is not None and batch < 1:
        raise _wrong(file, "batch_size", batch, "an integer >= 1")
    grader = given("grader", str, " or ".join(GRADERS))
    if grader is not None and grader not in GRADERS:
        raise _wrong(file, "grader", grader, " or ".join(GRADERS))
    multiturn = given("fewshot_as_multiturn", bool, "true or false")
    return Settings(
        limit=limit,
        batch_size=batch or 32,
        device=given("device", str, "cpu, cuda, cuda:1, ..."),
        num_fewshot=shots,
        gen_kwargs=given("gen_kwargs", dict, "names with values, as {max_gen_toks: 512}"),
        apply_chat_template=given("apply_chat_template", (bool, str), "true or a name") or False,
        fewshot_as_multiturn=True if multiturn is None else multiturn,
        system_instruction=given("system_instruction", str, "a text"),
        include_path=tuple(_texts(file, "include_path", source.get("include_path"))),
        grader=grader,
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _texts(file: Path, key: str, value: Any) -> list[str]:
    texts = [] if value is None else _listed(value)
    if not all(isinstance(text, str) and text for text in texts):
        raise _wrong(file, key, value, "a name or a list of names")
    return list(dict.fromkeys(texts))


def _whole(file: Path, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(file, key, value, "an integer or a list of integers, as [0, 1, 2, 3]")
    return value


def _mapping(file: Path, key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise _wrong(file, key, value, "model arguments with values, as {method: nabla, n: 8}")
    return value


def _refuse_empty(file: Path, lists: Mapping[str, Sequence[Any]]) -> None:
    for key, values in lists.items():
        if not values:
            example = {"tasks": "tasks: nabla_countdown", "seeds": "seeds: [0, 1]"}[key]
            raise ConfigError(f"{file}: {key} is missing or empty. Try `{example}`.")


def _wrong(file: Path, key: str, got: Any, wanted: str) -> ConfigError:
    return ConfigError(f"{file}: {key} is {got!r}: it takes {wanted}.")
