"""`import nabla_eval` is cheap, and every name it promises is there when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import nabla_eval


def test_importing_the_package_imports_nothing_else_of_weight() -> None:
    script = "import sys, nabla_eval; dir(nabla_eval); print(*sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "transformers", "lm_eval", "numpy", "click", "rich"}


@pytest.mark.parametrize("name", nabla_eval.__all__)
def test_every_public_name_resolves_and_is_listed(name: str) -> None:
    assert getattr(nabla_eval, name) is not None
    assert name in dir(nabla_eval)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="genrate"):
        nabla_eval.genrate  # noqa: B018
