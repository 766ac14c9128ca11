"""The command reference is the commands' own help, and completion knows the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nabla_eval.cli.main import COMMANDS
from nabla_eval.cli.reference import BEGIN, commands, example, reference, renewed, summary
from nabla_eval.errors import DataError


def test_the_page_is_up_to_date(root: Path) -> None:
    text = (root / "docs/commands.md").read_text(encoding="utf-8")
    assert renewed(text) == text, "run `python -m nabla_eval.cli.reference`"


def test_every_command_stands_in_it_with_a_sentence_and_an_example() -> None:
    found = list(commands())
    assert {name.split()[0] for name, _ in found} == set(COMMANDS)
    for name, command in found:
        assert f"| `{name}` |" in reference()
        assert summary(command), name
        assert example(command).startswith(("nabla-eval ", "lm_eval ")), name


def test_a_stale_reference_is_replaced_and_nothing_else(root: Path) -> None:
    text = (root / "docs/commands.md").read_text(encoding="utf-8")
    assert renewed(text.replace("| `theory` |", "| `theories` |")) == text
    with pytest.raises(DataError, match="Put them where"):
        renewed(text.replace(BEGIN, ""))


@pytest.mark.parametrize(("typed", "expected"), [("swe", "sweep"), ("trace sh", "show")])
def test_shell_completion_as_the_pages_have_it(root: Path, typed: str, expected: str) -> None:
    page = (root / "docs/installation.md").read_text(encoding="utf-8")
    assert "_NABLA_EVAL_COMPLETE=bash_source nabla-eval" in page
    words = f"nabla-eval {typed}"
    script = "from nabla_eval.cli.main import main; main(prog_name='nabla-eval')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "_NABLA_EVAL_COMPLETE": "bash_complete", "COMP_WORDS": words,
             "COMP_CWORD": str(len(words.split()) - 1)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [f"plain,{expected}"]
