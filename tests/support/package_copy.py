"""A copy of the package to which a test may add files, or take some away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PackageCopy:
    """The folder that holds the copy of `nabla_eval`."""

    folder: Path

    @classmethod
    def make(cls, root: Path, folder: Path) -> PackageCopy:
        shutil.copytree(root / "nabla_eval", folder / "nabla_eval")  # compiled files too
        return cls(folder)

    @property
    def package(self) -> Path:
        return self.folder / "nabla_eval"

    def run(self, *arguments: str) -> str:
        """What a Python process that imports the copy prints. Fails where it fails."""
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False,
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(self.folder)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()
