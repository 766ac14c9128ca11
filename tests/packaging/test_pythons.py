"""Every Python that the classifiers name, where there is one, compiles and starts the wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
STATED = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
# The hook as `.pth` files call it, the package as it is imported, and each file compiled.
TRY = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder))
exec((folder / "nabla_eval_hook.pth").read_text())
import nabla_eval
for file in folder.rglob("*.py"):
    compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
print("%d.%d" % sys.version_info[:2], nabla_eval.__version__)
"""


def interpreter(version: str) -> str | None:
    """Return a Python of a version: this one, one of pyenv's, or one on the path."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    own = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return str(own[-1]) if own else shutil.which(f"python{version}")


def test_the_oldest_stated_is_the_oldest_allowed() -> None:
    allowed = re.search(r'requires-python = ">=(3\.\d+)"', PROJECT)
    assert allowed is not None and STATED[0] == allowed[1]
    minors = [int(version.split(".")[1]) for version in STATED]
    assert minors == list(range(minors[0], minors[-1] + 1))


@pytest.mark.xdist_group("packaging")  # one process builds the wheel for all
@pytest.mark.parametrize("version", STATED)
def test_the_wheel_is_one_for_this_python(version: str, wheel: Path, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    command = [python, "-I", "-W", "error", "-c", TRY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split()[:1] == [version], done.stderr
