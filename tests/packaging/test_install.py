"""From a wheel or in place: lm-eval knows `nabla`, and Python starts as fast as before."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.xdist_group("packaging")  # one process builds the wheel for all

KNOWS = """
import lm_eval.models
from lm_eval.api.registry import model_registry
print("nabla" in model_registry, "hf" in model_registry)
"""


def start_up(run: Run) -> dict[str, int]:
    """Modules that `python -c ""` imports, with what each cost in microseconds."""
    lines = run("-X", "importtime", "-c", "").stderr.splitlines()[1:]
    columns = [line.removeprefix("import time:").split("|") for line in lines]
    return {name.strip(): int(cost) for _, cost, name in columns}


def test_lm_eval_knows_nabla_in_any_folder(run: Run) -> None:
    done = run("-c", KNOWS)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "True"]), done.stderr


def test_nabla_survives_a_reload_of_lm_evals_models(run: Run) -> None:
    done = run("-c", "import importlib, lm_eval.models as m; importlib.reload(m)" + KNOWS)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "True"]), done.stderr


def test_start_up_imports_the_hook_and_nothing_of_weight(run: Run) -> None:
    modules = start_up(run)
    assert "_nabla_eval_hook" in modules
    heavy = {"torch", "lm_eval", "transformers", "numpy", "nabla_eval", "typing"}
    assert not heavy & {name.split(".")[0] for name in modules}


def test_the_hook_costs_well_under_a_millisecond(run: Run) -> None:
    """The best of ten, since a busy machine only ever adds to it."""
    assert min(start_up(run)["_nabla_eval_hook"] for _ in range(10)) < 700


def test_a_broken_package_breaks_neither_python_nor_lm_eval(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "nabla_eval"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('broken on purpose')\n")
    done = run("-c", KNOWS, PYTHONPATH=str(broken.parent))
    assert (done.returncode, done.stdout.split()) == (0, ["False", "True"]), done.stderr
    assert "broken on purpose" in done.stderr


def test_the_entry_point_names_the_registered_class(run: Run) -> None:
    script = """
from importlib.metadata import entry_points
from nabla_eval.harness.register import NAME, TARGET
points = entry_points(group="lm_eval.models", name=NAME)
print([p.value for p in points] == [TARGET])
"""
    assert run("-c", script).stdout.strip() == "True"


def test_tasks_are_found(run: Run) -> None:
    done = run("-m", "nabla_eval.cli.main", "tasks", "path")
    assert done.returncode == 0, done.stderr
    assert list(Path(done.stdout.strip()).rglob("*.yaml"))


def test_the_wheel_is_complete(wheel: Path, root: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shared = f"{wheel.name.split('-py3')[0]}.data/data/share/nabla_eval"
    assert {"nabla_eval_hook.pth", "_nabla_eval_hook.py", "nabla_eval/py.typed"} <= names
    for package in (root / "nabla_eval", root / "theory" / "nabla_theory"):
        sources = {str(p.relative_to(package.parent)) for p in package.rglob("*.py")}
        assert sources
        assert sources <= names
    for pattern in ("*.safetensors", "*.json"):
        data = {str(p.relative_to(root)) for p in (root / "nabla_eval").rglob(pattern)}
        assert data
        assert data <= names
    tasks = {f"{shared}/{p.relative_to(root)}" for p in (root / "tasks").rglob("*.yaml")}
    assert tasks
    assert tasks <= names


def test_the_wheel_holds_nothing_else_at_its_root(wheel: Path) -> None:
    roots = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    own = {root for root in roots if not root.endswith((".dist-info", ".data"))}
    assert own == {"nabla_eval", "nabla_theory", "_nabla_eval_hook.py", "nabla_eval_hook.pth"}
