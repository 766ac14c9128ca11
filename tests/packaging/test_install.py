"""From a wheel or in place: lm-eval knows `nabla`, and Python starts as fast as before."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import nabla_eval

Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.xdist_group("packaging")  # one process builds the wheel for all

KNOWS = """
import importlib
import lm_eval.models
from lm_eval.api.registry import model_registry
print("nabla" in model_registry, "hf" in model_registry)
"""
POINTS = """
from importlib.metadata import entry_points
from nabla_eval.harness.register import NAME, TARGET
from nabla_eval.harness.task_files import tasks_path
points = entry_points(group="lm_eval.models", name=NAME)
print([p.value for p in points] == [TARGET], any(tasks_path().rglob("*.yaml")))
"""


def start_up(run: Run) -> dict[str, int]:
    """Modules that `python -c ""` imports, with what each cost in microseconds."""
    lines = run("-X", "importtime", "-c", "").stderr.splitlines()[1:]
    columns = [line.removeprefix("import time:").split("|") for line in lines]
    return {name.strip(): int(cost) for _, cost, name in columns}


def test_lm_eval_knows_nabla_in_any_folder_and_after_a_reload(run: Run) -> None:
    done = run("-c", f"{KNOWS}importlib.reload(lm_eval.models){KNOWS}")
    assert (done.returncode, done.stdout.split()) == (0, ["True"] * 4), done.stderr


@pytest.mark.parametrize("installed", ["editable"], indirect=True)
def test_a_broken_package_breaks_neither_python_nor_lm_eval(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "nabla_eval"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('broken on purpose')\n")
    done = run("-c", KNOWS, PYTHONPATH=str(broken.parent))
    assert (done.returncode, done.stdout.split()) == (0, ["False", "True"]), done.stderr
    assert "broken on purpose" in done.stderr


def test_start_up_imports_the_hook_and_nothing_of_weight(run: Run) -> None:
    """The hook costs well under a millisecond: a busy machine only adds to the best of ten."""
    modules = start_up(run)
    heavy = {"torch", "lm_eval", "transformers", "numpy", "nabla_eval", "typing"}
    assert not heavy & {name.split(".")[0] for name in modules}
    assert min(start_up(run)["_nabla_eval_hook"] for _ in range(10)) < 700


def test_the_command_is_there(run: Run, installed: Path) -> None:
    command = installed.parent / "nabla-eval"
    assert run(str(command), "--version").stdout.split()[-1] == nabla_eval.__version__
    listed = run(str(command), "tasks", "list")
    assert listed.returncode == 0 and "nabla_countdown" in listed.stdout, listed.stderr


def test_uninstalling_leaves_nothing(
    wheel: Path, bare: Path, tmp_path: Path, pip: Callable[..., None]
) -> None:
    """Neither the hook, nor its `.pth`, nor tasks, nor what Python compiled of them."""

    def files() -> set[Path]:
        return {path for path in (tmp_path / "venv").rglob("*") if path.is_file()}

    before = files()
    pip("install", "--no-deps", str(wheel), python=bare)
    subprocess.run([bare, "-c", "import nabla_eval"], check=True)
    names = {path.name for path in files() - before}
    assert {"nabla_eval_hook.pth", "_nabla_eval_hook.py", "nabla_countdown.yaml"} <= names
    pip("uninstall", "--yes", "nabla-eval", python=bare)
    assert files() == before
    subprocess.run([bare, "-W", "error", "-c", ""], check=True)


def test_the_hook_goes_with_the_last_lm_eval_that_needs_it(root: Path) -> None:
    """Releases after 0.4.13 scan entry points: docs/maintaining.md says what to remove then."""
    from packaging.version import Version

    (floor,) = re.findall(r'"lm-eval\[[^"]*\]>=([\d.]+)"', (root / "pyproject.toml").read_text())
    assert (Version(floor) <= Version("0.4.13")) == (root / "startup").is_dir()


def test_no_page_installs_from_an_index_that_has_no_release(root: Path) -> None:
    pages = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("reports/**/*.md")]
    said = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    install = (
        r"(?:pip|pipx|uv tool) install (?:-\S+ )*[\"']?nabla[-_]eval(?:\[\w+\])?[\"']?(?! @)\b"
    )
    assert re.search(install, "pip install nabla-eval") and re.findall(install, said) == []


def test_the_entry_point_names_the_registered_class_and_tasks_are_found(run: Run) -> None:
    done = run("-c", POINTS)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_the_wheel_is_complete_and_holds_nothing_else_at_its_root(wheel: Path, root: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shared = f"{wheel.name.split('-py3')[0]}.data/data/share/nabla_eval"
    assert {"nabla_eval_hook.pth", "_nabla_eval_hook.py", "nabla_eval/py.typed"} <= names
    packages = ("nabla_eval", "theory/nabla_theory", "examples/training/nabla_training")
    for package in (root / name for name in packages):
        sources = {str(p.relative_to(package.parent)) for p in package.rglob("*.py")}
        assert sources and sources <= names
    for pattern in ("*.safetensors", "*.json"):
        data = {str(p.relative_to(root)) for p in (root / "nabla_eval").rglob(pattern)}
        assert data and data <= names
    tasks = {f"{shared}/{p.relative_to(root)}" for p in (root / "tasks").rglob("*.yaml")}
    assert tasks and tasks <= names
    tops = {name.split("/")[0] for name in names}
    own = {top for top in tops if not top.endswith((".dist-info", ".data"))}
    hook = {"_nabla_eval_hook.py", "nabla_eval_hook.pth"}
    assert own == {"nabla_eval", "nabla_theory", "nabla_training"} | hook


def test_importing_the_package_imports_nothing_else_of_weight() -> None:
    script = "import sys, nabla_eval; dir(nabla_eval); print(*sys.modules.keys())"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "lm_eval", "numpy", "click", "rich"}


def test_every_public_name_resolves_and_is_listed() -> None:
    for name in nabla_eval.__all__:
        assert getattr(nabla_eval, name) is not None
        assert name in dir(nabla_eval)
    with pytest.raises(AttributeError, match="genrate"):
        nabla_eval.genrate  # noqa: B018
