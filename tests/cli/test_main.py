"""The group: every command is there, explains itself, and fails in one paragraph."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

import nabla_eval
from nabla_eval.cli.main import COMMANDS, Lazy, main
from nabla_eval.errors import ConfigError


def load(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command


def leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and, in a group, everything below it, each with its full name."""
    yield name, command
    if isinstance(command, click.Group):
        for below, child in command.commands.items():
            if not child.hidden:
                yield from leaves(f"{name} {below}", child)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    for full_name, command in leaves(name, load(name)):
        assert command.help, full_name
        assert "Example" in command.help, full_name
        example = command.help.split("Example", 1)[1]
        assert f"nabla-eval {name}" in example, full_name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.help, f"{full_name} {parameter.name} has no help"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_runs(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Example" in result.output


def test_the_list_shows_every_command() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    assert all(name in output and entry.summary in output for name, entry in COMMANDS.items())


def test_version() -> None:
    output = CliRunner().invoke(main, ["--version"]).output
    assert output == f"nabla-eval, version {nabla_eval.__version__}\n"


def test_the_list_imports_no_command_and_nothing_heavy() -> None:
    modules = sorted({entry.target.split(":")[0] for entry in COMMANDS.values()})
    script = f"""
import sys
from nabla_eval.cli.main import main
main(["--help"], standalone_mode=False)
unwanted = {{"torch", "lm_eval", "transformers", "numpy", "rich", *{modules!r}}}
print("LOADED", *sorted(unwanted & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_the_list_appears_at_once() -> None:
    """Under 0.3 s of processor time, so that other work on the machine does not count."""
    command = [sys.executable, "-m", "nabla_eval.cli.main", "--help"]
    best = float("inf")
    for _ in range(3):  # the first one may have to compile
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best = min(best, spent)
    assert best < 0.3


def test_an_unknown_command_is_answered_with_a_near_one() -> None:
    result = CliRunner().invoke(main, ["tsks"])
    assert result.exit_code == 2
    assert "tsks" in result.output
    assert "Did you mean tasks?" in result.output


@click.command()
def failing() -> None:
    raise ConfigError("lr must be a number > 0, got [bold]-1[/bold].")


@pytest.fixture
def with_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("nabla_eval.cli.failing")
    vars(module)["failing"] = failing
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(COMMANDS, "failing", Lazy("nabla_eval.cli.failing:failing", "Fails."))


@pytest.mark.usefixtures("with_failing")
def test_our_errors_are_one_paragraph_on_stderr_and_exit_code_1() -> None:
    result = CliRunner().invoke(main, ["failing"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "Error: lr must be a number > 0, got [bold]-1[/bold].\n"


@pytest.mark.usefixtures("with_failing")
def test_the_traceback_is_there_when_asked_for() -> None:
    result = CliRunner().invoke(main, ["--traceback", "failing"])
    assert isinstance(result.exception, ConfigError)
