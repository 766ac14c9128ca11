"""What CONTRIBUTING tells newcomers is true of the code."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from package_copy import PackageCopy

NAMED = """
from nabla_eval.analysis.controls import controls_of
from nabla_eval.methods.registry import METHODS, configure, option_names


def test_the_method_is_known():
    config = configure("longest_of_n", {"n": 1, "temperature": 0})
    said = "temperature=0 makes all samples alike, there is nothing to choose from"
    assert config.idle == said
    assert METHODS["longest_of_n"].summary == "the longest of n samples"
    assert {"n", "temperature", "max_calls"} < {*option_names("longest_of_n")}
"""
PLAIN = ("-o", "addopts=--import-mode=importlib")  # without checks of shapes at every call
# What holds of every method and every file, as far as it says nothing of pages and commits.
CHECKS = "longest_of_n or the_method_is_known or class_name or name_no_cache or only_the_sinks"


def test_one_file_and_one_entry_add_the_example(root: Path, tmp_path: Path) -> None:
    """In a copy of the package, where the contract tests and conventions then hold for it too."""
    text = (root / "docs/extending.md").read_text(encoding="utf-8")
    source, entry, *_ = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    copy = PackageCopy.make(root, tmp_path)
    (copy.package / "methods" / "longest_of_n.py").write_text(source)
    registry = copy.package / "methods" / "registry.py"
    known = registry.read_text(encoding="utf-8")
    registry.write_text(
        known.replace(
            "from nabla_eval.methods.nabla import",
            "from nabla_eval.methods.longest_of_n import LongestOfN, longest_of_n\n"
            "from nabla_eval.methods.nabla import",
            1,
        ).replace('    "greedy": MethodSpec(', entry + '    "greedy": MethodSpec(', 1)
    )
    tests = tmp_path / "tests"
    for folder in ("contracts", "support", "architecture"):
        shutil.copytree(root / "tests" / folder, tests / folder)
    (tests / "test_named.py").write_text(NAMED)
    for folder in ("theory", "examples"):
        shutil.copytree(root / folder, tmp_path / folder)
    shutil.copy(root / "tests" / "conftest.py", tests)
    shutil.copy(root / "pyproject.toml", tmp_path)
    files = ("contracts/test_every_method", "architecture/test_conventions", "test_named")
    said = copy.run(
        "-m", "pytest", "-q", *PLAIN, *(f"tests/{file}.py" for file in files), "-k", CHECKS
    )
    assert re.search(r"^\d\d+ passed", said, re.MULTILINE), said


def test_named_make_targets_and_files_exist(root: Path) -> None:
    pages = ("CONTRIBUTING.md", "docs/maintaining.md")
    text = "\n".join((root / page).read_text(encoding="utf-8") for page in pages)
    found = re.findall(r"\bmake ([a-z-]+)`|^    make ([a-z]+)", text, re.MULTILINE)
    targets = {inline or line for inline, line in found}
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert {"test", "lint", "bench", "reports", "demo"} <= targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    files = re.findall(r"`((?:nabla_eval|tests|engine|methods|cli)/[a-z_/]+\.py)`", text)
    assert files
    for file in files:
        assert (root / file).is_file() or (root / "nabla_eval" / file).is_file(), file
