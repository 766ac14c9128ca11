"""What CONTRIBUTING tells newcomers is true of the code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from nabla_eval.errors import ConfigError
from nabla_eval.randomness import Key
from nabla_eval.requests import Generate, Outcome, Problem, TemplateAffixes


@pytest.fixture
def example(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example method of CONTRIBUTING, as a module."""
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    module = ModuleType("example_of_contributing")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "CONTRIBUTING.md", "exec"), vars(module))
    return module


def test_the_example_method_keeps_the_contract(example: Any) -> None:
    problem = Problem(Key.root(0), prompt=(1, 2), frame=TemplateAffixes((), ()), max_new_tokens=4)
    method = example.longest_of_n(problem, example.LongestOfN(n=3))
    requests = next(method)
    assert all(type(request) is Generate for request in requests)
    assert len({request.key for request in requests}) == 3
    lengths = (2, 5, 3)
    answers = [SimpleNamespace(text=f"{n}", tokens=(7,) * n, stop="eos") for n in lengths]
    with pytest.raises(StopIteration) as stop:
        method.send(answers)
    assert stop.value.value == Outcome("5", (7,) * 5, "eos")


def test_the_example_options_check_themselves(example: Any) -> None:
    with pytest.raises(ConfigError, match="n must be an integer >= 1, got 0"):
        example.LongestOfN(n=0)


def test_named_make_targets_and_files_exist(root: Path) -> None:
    pages = ("CONTRIBUTING.md", "docs/maintaining.md")
    text = "\n".join((root / page).read_text(encoding="utf-8") for page in pages)
    targets = set(re.findall(r"\bmake ([a-z-]+)`", text)) | set(
        re.findall(r"^    make ([a-z]+)", text, flags=re.MULTILINE)
    )
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert {"test", "lint", "bench", "reports", "demo"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    files = re.findall(r"`((?:nabla_eval|tests|engine|methods|cli)/[a-z_/]+\.py)`", text)
    assert files
    for file in files:
        assert (root / file).is_file() or (root / "nabla_eval" / file).is_file(), file
