"""A wheel of the working tree, and environments in which it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pip(*arguments: str, python: Path | None = None) -> None:
    where = [] if python is None else ["--python", str(python)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *where]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(root))
    (built,) = folder.glob("*.whl")
    return built


def environment(folder: Path) -> Path:
    """Make an environment that sees this one's packages; returns its Python.

    They come after its own, as a plain path: the `.pth` files among them, of which our own may be
    one, are not run.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    Path(purelib, "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Python of an environment in `tmp_path / "venv"`, without nabla-eval."""
    return environment(tmp_path / "venv")


@pytest.fixture(scope="session", name="pip")
def pip_command() -> Callable[..., None]:
    return pip


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(
    request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Python of an environment with nabla-eval, once from the wheel, once editable."""
    python = environment(tmp_path_factory.mktemp(request.param) / "venv")
    what = ["--no-build-isolation", "--editable", str(root)]
    if request.param == "wheel":
        what = [str(request.getfixturevalue("wheel"))]
    pip("install", "--no-deps", *what, python=python)
    return python


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Run the environment's Python in an empty folder."""

    def call(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return subprocess.run(
            [installed, *arguments],
            cwd=tmp_path, env={**clean, **environ}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return call
