"""Adding an optimiser adds one file: SGD, to a copy of the package that never had it."""

from __future__ import annotations

import shutil
from pathlib import Path

from package_copy import PackageCopy

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
    copy = PackageCopy.make(root, tmp_path)
    optimisers = copy.package / "dto" / "optimisers"
    (optimisers / "sgd.py").unlink()
    assert copy.run("-c", REFUSED.format(copy=str(tmp_path))) == (
        "optimizer must be one of adamw, got 'sgd'. Known names: adamw."
    )
    shutil.copy(root / "nabla_eval/dto/optimisers/sgd.py", optimisers)
    assert copy.run("-c", RUN) == "inf"
