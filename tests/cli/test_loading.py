"""Each command loads what it needs, counted in modules; a terminal is told of what takes long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import __version__ as transformers_version

from nabla_eval.cli import loading

SCRIPT = """
import atexit, sys
from nabla_eval.cli.main import main
atexit.register(lambda: print("LOADED", *sys.modules))
main()
"""
MODELS = {"torch", "transformers", "lm_eval.tasks", "datasets"}
OTHERS = {"evaluate", "matplotlib", "math_verify", "nltk", "sklearn", "trl", "nabla_theory"}


def loaded(*arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Loading the engine" not in done.stderr  # a pipe is no terminal
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_a_run_loads_the_models_and_nothing_of_other_commands(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    command = ("run", "--method", "greedy", "--limit", "1", "--output", folder)
    first = loaded(*command)
    assert set(loading.EVALUATION.values()) <= first
    # transformers 4 imports scikit-learn by itself, where it is installed.
    assert not (OTHERS if transformers_version >= "5" else OTHERS - {"sklearn"}) & first
    for light in (command, ("trace", "show", folder, "0"), ("report", "accuracy", folder)):
        assert not (MODELS | OTHERS) & loaded(*light), light


@pytest.mark.parametrize(
    "arguments", ["--help", "run --help", "demo --help", "sweep --help", "tasks list"]
)
def test_help_and_lists_load_neither_models_nor_tables_of_numbers(arguments: str) -> None:
    assert not (MODELS | OTHERS | {"numpy"}) & loaded(*arguments.split())


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_is_told_what_loads(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading, "EVALUATION", {"a small library": "this"})
    monkeypatch.delitem(sys.modules, "this", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    loading.load()
    out, err = capsys.readouterr()
    assert ("Loading a small library ..." in err) == ("this" in sys.modules) == terminal
    assert terminal or (out, err) == ("", "")
