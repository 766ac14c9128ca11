"""Adding an optimiser adds one file: SGD, to a copy of the package that never had it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jaxtyping
import pytest


@contextmanager
def imported_from(folder: Path) -> Iterator[Any]:
    """Within it `nabla_eval` is the one in this folder; yields its registry of methods."""

    def taken() -> dict[str, Any]:
        names = [name for name in sys.modules if name.partition(".")[0] == "nabla_eval"]
        return {name: sys.modules.pop(name) for name in names}

    usual = taken()
    sys.path.insert(0, str(folder))
    try:
        from nabla_eval.methods import registry

        assert registry.__file__.startswith(str(folder))
        yield registry
    finally:
        sys.path.remove(str(folder))
        taken()
        sys.modules.update(usual)


def test_one_file_adds_sgd(root: Path, tmp_path: Path) -> None:
    jaxtyping.config.update("jaxtyping_disable", True)  # its checks know classes by their names
    shutil.copytree(root / "nabla_eval", tmp_path / "nabla_eval")  # compiled files too
    added = tmp_path / "nabla_eval/dto/optimisers/sgd.py"
    added.unlink()
    options = {
        "n": 4, "passes": 2, "temperature": 1.2, "steps": 4, "lr": 1.0, "optimizer": "sgd",
    }  # fmt: skip
    with imported_from(tmp_path) as registry, pytest.raises(ValueError) as refused:
        registry.configure("nabla", options)
    assert str(refused.value) == "optimizer must be one of adamw, got 'sgd'. Known names: adamw."
    shutil.copy(root / "nabla_eval/dto/optimisers/sgd.py", added)
    with imported_from(tmp_path) as registry:
        from nabla_eval.dto.certify import logit_reach
        from nabla_eval.engine.drive import drive_all
        from nabla_eval.engine.execute import Executor
        from nabla_eval.engine.naive import nabla
        from nabla_eval.testing import tiny_pair, tiny_problems

        pair = tiny_pair(seed=3)
        config, problems = registry.configure("nabla", options), tiny_problems(pair, 4)
        fast = drive_all([registry.start(problem, config) for problem in problems], Executor(pair))
        slow = [nabla(pair, problem, config) for problem in problems]
        assert [own.tokens for own in fast] == [own.tokens for own in slow]
        assert sum(own.ledger.flips for own in fast) > 0
        assert logit_reach(config.dto) == float("inf")
