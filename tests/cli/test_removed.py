"""What was removed says so, and what to do instead."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from nabla_eval.cli.main import main


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("train align-reward --data pairs.jsonl --output out", "TRL's RewardTrainer"),
    ],
)
def test_removed_commands_say_what_to_do_instead(command: str, instead: str) -> None:
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 1
    assert "was removed: " in result.stderr and instead in result.stderr


def test_they_are_in_no_list() -> None:
    assert "align-reward" not in CliRunner().invoke(main, ["train", "--help"]).stdout
