"""Adding an optimiser adds one file: SGD, to a copy of the package that never had it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

REFUSED = """
import nabla_eval
from nabla_eval.errors import ConfigError
from nabla_eval.methods.registry import configure
assert nabla_eval.__file__.startswith({copy!r})
try:
    configure("nabla", {{"optimizer": "sgd"}})
except ConfigError as error:
    print(error)
"""

RUN = """
from nabla_eval.dto.certify import logit_reach
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.naive import nabla
from nabla_eval.methods.registry import configure, start
from nabla_eval.testing import tiny_pair, tiny_problems

pair = tiny_pair(seed=3)
config = configure(
    "nabla", {"n": 4, "temperature": 1.2, "steps": 4, "lr": 1.0, "optimizer": "sgd"}
)
problems = tiny_problems(pair, 4)
fast = drive_all([start(problem, config) for problem in problems], Executor(pair))
slow = [nabla(pair, problem, config) for problem in problems]
assert [own.tokens for own in fast] == [own.tokens for own in slow]
assert sum(own.ledger.flips for own in fast) > 0
print(logit_reach(config.dto))
"""


def test_one_file_adds_sgd(root: Path, tmp_path: Path) -> None:
    package = tmp_path / "nabla_eval"
    shutil.copytree(root / "nabla_eval", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "dto" / "optimisers" / "sgd.py").unlink()

    def run(script: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False,
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run(REFUSED.format(copy=str(tmp_path))) == (
        "optimizer='sgd' is not one of adamw. Known names: adamw."
    )
    shutil.copy(root / "nabla_eval/dto/optimisers/sgd.py", package / "dto" / "optimisers")
    assert run(RUN) == "inf"
