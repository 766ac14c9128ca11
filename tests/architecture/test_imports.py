"""Imports point one way (DESIGN 2), and what must be light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "nabla_eval"
THEORY = ROOT / "theory" / "nabla_theory"
TRAINING = ROOT / "examples" / "training" / "nabla_training"

BASE = {"errors", "options", "randomness", "signals", "validation", "thought"}
BASE |= {"terminal", "extensions"}
WORDS = BASE | {"cost", "outcome", "protocol"}
ENGINE = WORDS | {"models", "dto"}

# Unit of nabla_eval -> the units it may import. `engine` and `methods` meet only in `protocol`, and
# nothing imports `experimental`, which `extensions` finds by name.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "signals": {"terminal"},
    "thought": set(),
    "terminal": set(),
    "extensions": set(),
    "validation": set(),
    "randomness": {"errors"},
    "options": {"errors", "randomness", "validation"},
    "cost": {"errors"},
    "outcome": {"cost", "validation"},
    "protocol": BASE | {"cost", "outcome"},
    "grading": BASE,
    "methods": WORDS | {"grading"},
    "embedded": BASE,
    "models": WORDS,
    "dto": WORDS | {"models"},
    "engine": ENGINE,
    "traces": WORDS,
    "analysis": WORDS | {"traces", "grading", "methods"},
    "reporting": WORDS | {"traces", "grading", "analysis"},
    "testing": ENGINE | {"engine", "methods"},
    "experimental": ENGINE | {"engine", "methods", "traces", "analysis"},
    "api": ENGINE | {"engine", "methods", "grading", "traces", "embedded", "reporting"},
    "harness": ENGINE | {"engine", "methods", "grading", "traces", "embedded", "api"},
    "probing": ENGINE | {"engine", "methods", "grading", "traces", "analysis", "api"},
    "runs": ENGINE | {"engine", "methods", "grading", "traces", "embedded", "harness", "probing"},
    "cli": ENGINE
    | {"engine", "methods", "grading", "traces", "analysis", "reporting"}
    | {"embedded", "api", "harness", "runs", "probing"},
    "__main__": {"cli"},
}
# These must run without a model: in notebooks over traces, and in tests with a scripted executor.
WITHOUT_TORCH = sorted(WORDS | {"grading", "methods", "traces", "analysis", "reporting"})
HEAVY = {"torch", "transformers", "accelerate", "peft", "trl"}
# The specification takes the options of the method that it specifies; no fast path imports it.
ALSO = {"nabla_eval.engine.naive": {"methods"}}


def imported(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that a module imports anywhere in its text, also inside functions.

    `from a import b` yields both `a` and `a.b`, since `b` may be a module.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imports_of(module: str, file: Path) -> set[str]:
    return set(imported(file.read_text(encoding="utf-8"), module, file.name == "__init__.py"))


def unit(name: str) -> str | None:
    """`nabla_eval.engine.sampler` -> `engine`; the package itself and other packages -> None."""
    parts = name.split(".")
    return parts[1] if parts[0] == "nabla_eval" and len(parts) > 1 else None


def arrows_up(module: str, names: set[str]) -> set[str]:
    """Units that `module` imports without leave; public names of the package count as `api`."""
    own = unit(module)
    if own is None:  # nabla_eval/__init__.py, which exports the api lazily
        return set()
    targets = {unit(name) for name in names} - {None, own, "__version__"}
    targets = {"api" if name in {"load_pair", "generate", "refine"} else name for name in targets}
    return {str(target) for target in targets} - MAY_IMPORT[own] - ALSO.get(module, set())


def test_every_unit_has_a_place() -> None:
    units = {unit(module) for module, _ in modules(PACKAGE)} - {None}
    assert units <= MAY_IMPORT.keys(), "place new packages in MAY_IMPORT and in docs/design.md"


def test_the_layers_have_no_cycle() -> None:
    left = dict(MAY_IMPORT)
    while left:
        free = {name for name, below in left.items() if not below & left.keys()}
        assert free, f"cycle among {sorted(left)}"
        left = {name: below for name, below in left.items() if name not in free}


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_no_arrow_runs_up(name: str) -> None:
    wrong = {
        str(file.relative_to(ROOT)): sorted(up)
        for module, file in modules(PACKAGE)
        if unit(module) == name and (up := arrows_up(module, imports_of(module, file)))
    }
    assert not wrong, f"{name} may import only {sorted(MAY_IMPORT[name])}"


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_light_units_name_no_heavy_package(name: str) -> None:
    wrong = {
        str(file.relative_to(ROOT)): sorted(heavy)
        for module, file in modules(PACKAGE)
        if unit(module) == name
        and (heavy := {n.split(".")[0] for n in imports_of(module, file)} & HEAVY)
    }
    assert not wrong


def test_light_units_load_no_heavy_package() -> None:
    """Not even through a third party: in a fresh interpreter, every light module is imported."""
    light = [module for module, _ in modules(PACKAGE) if unit(module) in WITHOUT_TORCH]
    assert light
    script = "\n".join(
        ["import importlib, sys"]
        + [f"importlib.import_module({module!r})" for module in light]
        + [f"print(*sorted({HEAVY!r} & sys.modules.keys()))"]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("folder", "others"),
    [
        (PACKAGE, {"nabla_theory", "nabla_training"}),  # but for the commands, which it names
        (THEORY, {"nabla_eval", "nabla_training"}),
        (TRAINING, {"nabla_theory"}),
    ],
)
def test_packages_import_no_stranger(folder: Path, others: set[str]) -> None:
    found = list(modules(folder))
    assert found
    for module, file in found:
        assert not others & {name.split(".")[0] for name in imports_of(module, file)}, file


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules that are left when those that import nothing of the rest are taken away."""
    left = dict(graph)
    while free := {module for module, below in left.items() if not below & left.keys()}:
        left = {module: below for module, below in left.items() if module not in free}
    return sorted(left)


@pytest.mark.parametrize("folder", [PACKAGE, THEORY, TRAINING], ids=lambda folder: folder.name)
def test_no_file_imports_itself_by_way_of_others(folder: Path) -> None:
    """Imports inside functions count; what only type checkers read, and lazy names, do not."""
    files = dict(modules(folder))
    graph = {
        module: imports_of(module, file) & files.keys() - {module, folder.name}
        for module, file in files.items()
    }
    assert sum(map(len, graph.values())) > len(graph)
    assert cycle({module: below for module, below in graph.items() if module != folder.name}) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == list("abcd")


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("nabla_eval.methods.x", "from nabla_eval.engine import drive", {"engine"}),
        ("nabla_eval.methods.x", "from ..engine.drive import drive", {"engine"}),
        ("nabla_eval.methods.x", "def f():\n    import nabla_eval.models.pair", {"models"}),
        ("nabla_eval.dto.x", "from nabla_eval import engine", {"engine"}),
        ("nabla_eval.engine.x", "from nabla_eval import generate", {"api"}),
        ("nabla_eval.methods.x", "from nabla_eval.protocol import Score", set()),
        ("nabla_eval.methods.x", "from .select import next_position", set()),
        ("nabla_eval.errors", "from nabla_eval.options import require", {"options"}),
    ],
)
def test_the_walker_sees_every_form_of_import(module: str, source: str, expected: set[str]) -> None:
    assert arrows_up(module, set(imported(source, module, is_package=False))) == expected
