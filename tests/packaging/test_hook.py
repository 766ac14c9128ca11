"""The start-up hook follows one import and leaves the import system as it was."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

WATCHED = "watched_by_the_hook.models"


@dataclass
class Hook:
    """The hook's module, watching a package made for the test, and how often it registered."""

    module: Any
    package: Path
    register: Callable[[], None]  # what it does instead of counting
    calls: list[bool] = field(default_factory=list)  # was the watched module complete?

    @property
    def watchers(self) -> list[object]:
        return [finder for finder in sys.meta_path if type(finder) is self.module.Watcher]


@pytest.fixture
def hook(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    file = root / "startup" / "_nabla_eval_hook.py"
    spec = importlib.util.spec_from_file_location("hook_under_test", file)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    package = tmp_path / "watched_by_the_hook"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text("runs = globals().get('runs', 0) + 1\n")
    result = Hook(module, package, module.register_quietly)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module, "WATCHED", WATCHED)
    monkeypatch.setattr(
        module,
        "register_quietly",
        lambda: result.calls.append(hasattr(sys.modules[WATCHED], "runs")),
    )
    before = list(sys.meta_path)
    yield result
    sys.meta_path[:] = before
    for name in [name for name in sys.modules if name.startswith("watched_by_the_hook")]:
        del sys.modules[name]


def test_it_registers_once_after_the_module_has_run_and_leaves_its_loader(hook: Hook) -> None:
    hook.module.install()
    hook.module.install()
    assert len(hook.watchers) == 1
    importlib.import_module("watched_by_the_hook")
    assert importlib.util.find_spec(WATCHED) is not None
    assert hook.calls == [] and len(hook.watchers) == 1  # neither is the import that it waits for
    module = importlib.import_module(WATCHED)
    assert hook.calls == [True]  # and not before `runs` was set
    assert hook.watchers == []
    importlib.reload(module)
    assert (module.runs, hook.calls) == (2, [True])
    assert type(module.__loader__) is SourceFileLoader
    assert module.__spec__ is not None and module.__spec__.loader is module.__loader__
    assert vars(module.__loader__).keys() == {"name", "path"}


def test_a_failed_import_fails_as_ever_and_may_be_repeated(hook: Hook) -> None:
    hook.module.install()
    file = hook.package / "models.py"
    good = file.read_text()
    file.write_text("raise KeyError('theirs')\n")
    with pytest.raises(KeyError, match="theirs"):
        importlib.import_module(WATCHED)
    file.unlink()
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match=WATCHED):
        importlib.import_module(WATCHED)
    assert hook.calls == []
    file.write_text(good)
    importlib.invalidate_caches()
    importlib.import_module(WATCHED)
    assert hook.calls == [True]


def test_installed_late_it_registers_at_once(hook: Hook) -> None:
    importlib.import_module(WATCHED)
    hook.module.install()
    assert hook.calls == [True] and hook.watchers == []


def test_a_loader_shared_by_all_modules_is_not_touched(hook: Hook) -> None:
    """Built-in and frozen modules are loaded by classes: patching one would reach every module."""
    before = dict(vars(importlib.machinery.BuiltinImporter))
    hook.module.Watcher().follow(importlib.machinery.BuiltinImporter)
    assert dict(vars(importlib.machinery.BuiltinImporter)) == before


def test_an_error_of_ours_is_logged_and_swallowed(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "nabla_eval.harness.register", ModuleType("empty"))
    hook.register()
    assert "lm_eval --model nabla is not available" in caplog.text
