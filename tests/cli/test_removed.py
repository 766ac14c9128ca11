"""What was removed says so, and what to do instead."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from nabla_eval.cli.main import main
from nabla_eval.errors import ConfigError
from nabla_eval.harness import arguments
from nabla_eval.methods.registry import configure
from nabla_eval.options import REMOVED


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("train align-reward --data pairs.jsonl --output out", "TRL's RewardTrainer"),
        ("report paper printed.yaml --format markdown", "python reports/paper/audit.py"),
        ("embedded compare one two", "embedded card FOLDER"),
        ("embedded train --output pair --minutes 4", "python reports/embedded/train.py"),
    ],
)
def test_removed_commands_say_what_to_do_instead(command: str, instead: str) -> None:
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == 1
    assert "was removed: " in result.stderr and instead in result.stderr


@pytest.mark.parametrize("name", REMOVED)
def test_removed_options_of_the_method_say_why_they_went(name: str) -> None:
    for read_options in (
        lambda: configure("nabla", {name: 1}),
        lambda: arguments.read({"method": "nabla", name: 1}),
        lambda: arguments.read({name: "1"}),
    ):
        with pytest.raises(ConfigError, match=f"option '{name}' was removed: .* Leave it out"):
            read_options()


def test_they_are_in_no_list() -> None:
    assert "align-reward" not in CliRunner().invoke(main, ["train", "--help"]).stdout
    assert "compare" not in CliRunner().invoke(main, ["embedded", "--help"]).stdout
