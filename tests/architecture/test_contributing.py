"""What CONTRIBUTING tells newcomers is true of the code."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from package_copy import PackageCopy

NAMED = """
from nabla_eval.analysis.controls import is_baseline, controls_of
from nabla_eval.methods.registry import METHODS, configure, option_names
config = configure("longest_of_n", {"n": 1, "temperature": 0})
print(config.idle, METHODS["longest_of_n"].summary, *option_names("longest_of_n"), sep="\\n")
"""


def test_one_file_and_one_entry_add_the_example(root: Path, tmp_path: Path) -> None:
    """In a copy of the package, where the contract tests then hold for it too."""
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    source, entry = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
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
    for folder in ("contracts", "support"):
        shutil.copytree(root / "tests" / folder, tmp_path / "tests" / folder)
    shutil.copy(root / "tests" / "conftest.py", tmp_path / "tests")
    shutil.copy(root / "pyproject.toml", tmp_path)
    copy.run("-m", "pytest", "-q", "tests/contracts/test_every_method.py", "-k", "longest_of_n")
    said, summary, *options = copy.run("-c", NAMED).splitlines()
    assert said == "temperature=0 makes all samples alike, there is nothing to choose from"
    assert summary == "the longest of n samples" and {"n", "temperature", "max_calls"} < {*options}


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
