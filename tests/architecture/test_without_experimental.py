"""`rm -r nabla_eval/experimental` leaves a package that runs, analyses and reads old traces."""

from __future__ import annotations

import shutil
from pathlib import Path

from package_copy import PackageCopy

from nabla_eval.methods.registry import METHODS

SCRIPT = """
import pkgutil
from importlib import import_module
import nabla_eval
from nabla_eval import generate
from nabla_eval.analysis.controls import CONTROLS
from nabla_eval.methods.registry import METHODS
from nabla_eval.testing import tiny_pair
from nabla_eval.traces.read import restore
from nabla_eval.traces.schema import loads

for module in pkgutil.walk_packages(nabla_eval.__path__, "nabla_eval."):
    if not module.name.endswith("__main__"):
        import_module(module.name)
assert not CONTROLS and "prefix_gradient" not in METHODS
for line in open({golden!r}, encoding="utf-8"):
    entry = loads(line)
    if entry.get("method") in ("prefix_gradient", "locate_repair"):
        assert restore(entry).tokens
answer = generate(tiny_pair(process=False), "ab", "nabla", n=2, steps=1, max_new_tokens=4)
print(*METHODS, bool(answer.token_ids))
"""


def test_the_package_is_whole_without_the_folder(root: Path, tmp_path: Path) -> None:
    copy = PackageCopy.make(root, tmp_path)
    shutil.rmtree(copy.package / "experimental")
    golden = root / "tests" / "contracts" / "golden.jsonl"
    kept = [
        name for name, method in METHODS.items() if "experimental" not in method.config.__module__
    ]
    assert copy.run("-c", SCRIPT.format(golden=str(golden))).split() == [*kept, "True"]
