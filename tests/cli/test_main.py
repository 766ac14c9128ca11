"""The group: each command explains itself, loads what it needs, and fails in one paragraph."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from transformers import __version__ as transformers_version

import nabla_eval
from docs.commands import PAGE, commands, example, page, summary
from nabla_eval.cli import screen
from nabla_eval.cli.main import COMMANDS, Lazy, main
from nabla_eval.errors import ConfigError
from nabla_eval.harness import arguments
from nabla_eval.harness.task_files import list_tasks
from nabla_eval.methods.registry import configure
from nabla_eval.options import REMOVED

MODELS = {"torch", "transformers", "lm_eval.tasks", "datasets"}
OTHERS = {"evaluate", "matplotlib", "math_verify", "nltk", "sklearn", "trl", "nabla_theory"}


def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and, in a group, everything below it that is shown, each with its full name."""
    yield name, command
    for below, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from walk(f"{name} {below}", child)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name: str) -> None:
    found = main.get_command(click.Context(main), name)
    assert found is not None
    for full_name, command in walk(name, found):
        shown = CliRunner().invoke(main, [*full_name.split(), "--help"])
        assert shown.exit_code == 0 and f"nabla-eval {name}" in shown.output.split("Example", 1)[1]
        options = (each for each in command.params if isinstance(each, click.Option))
        assert all(each.help or each.hidden for each in options), full_name


def test_the_list_shows_every_command_and_the_version() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    assert all(name in output and entry.summary in output for name, entry in COMMANDS.items())
    output = CliRunner().invoke(main, ["--version"]).output
    assert output == f"nabla-eval, version {nabla_eval.__version__}\n"


def test_the_reference_is_the_commands_own_help() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m docs.commands`"
    assert {name.split()[0] for name, _ in commands()} == set(COMMANDS)
    for name, command in commands():
        assert f"| `{name}` |" in page() and summary(command), name
        assert example(command).startswith(("nabla-eval ", "lm_eval ")), name


def test_shell_completion_as_the_pages_have_it(root: Path) -> None:
    page = (root / "docs/installation.md").read_text(encoding="utf-8")
    assert "_NABLA_EVAL_COMPLETE=bash_source nabla-eval" in page
    asked = {"_NABLA_EVAL_COMPLETE": "bash_complete", "COMP_WORDS": "nabla-eval trace sh"}
    done = CliRunner(env={**asked, "COMP_CWORD": "2"}).invoke(main, prog_name="nabla-eval")
    assert done.stdout.split() == ["plain,show"]


def test_tasks_are_listed_and_their_folder_is_printed_alone(root: Path) -> None:
    result = CliRunner().invoke(main, ["tasks", "path"])
    assert Path(result.stdout.removesuffix("\n")) == root / "tasks"
    listed = CliRunner().invoke(main, ["tasks", "list"], env={"COLUMNS": "200"}).stdout
    names = [task.name for task in list_tasks()]
    assert "nabla_countdown" in names and all(name in listed for name in names)


# --- what is loaded ---

HELP = """
import sys
from click.testing import CliRunner
from nabla_eval.cli.main import COMMANDS, main

targets = {entry.target.partition(":")[0] for entry in COMMANDS.values()}
unwanted = {*sys.argv[1:], "rich", *targets}
for words in ("--help", "run --help", "demo --help", "sweep --help", "tasks list"):
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 0, result.output
    assert not unwanted & set(sys.modules), (words, unwanted & set(sys.modules))
    unwanted = set(sys.argv[1:])  # a command may import itself
"""
LOADED = """
import atexit, sys
from nabla_eval.cli.main import main
atexit.register(lambda: print("LOADED", *sys.modules))
main()
"""


def python(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_help_and_lists_load_neither_models_nor_tables_of_numbers() -> None:
    python(HELP, *MODELS, *OTHERS, "numpy")


def test_the_list_appears_at_once() -> None:
    """Under 0.3 s of processor time, so that other work on the machine does not count."""
    command = [sys.executable, "-m", "nabla_eval.cli.main", "--help"]
    spent = []
    for _ in range(3):  # the first one may have to compile
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.3


def loaded(*words: str) -> set[str]:
    done = python(LOADED, *words)
    assert "Loading the engine" not in done.stderr  # a pipe is no terminal
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_a_run_loads_the_models_and_nothing_of_other_commands(tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    command = ("run", "--method", "greedy", "--limit", "1", "--output", folder)
    first = loaded(*command)
    assert set(screen.EVALUATION.values()) <= first
    # transformers 4 imports scikit-learn by itself, where it is installed.
    assert not (OTHERS if transformers_version >= "5" else OTHERS - {"sklearn"}) & first
    for light in (command, ("trace", "show", folder, "0"), ("report", "accuracy", folder)):
        assert not (MODELS | OTHERS) & loaded(*light), light


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_is_told_what_loads(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screen, "EVALUATION", {"a small library": "this"})
    monkeypatch.setattr(screen.Screen, "is_terminal", terminal)
    monkeypatch.delitem(sys.modules, "this", raising=False)
    screen.load()
    out, err = capsys.readouterr()
    assert ("Loading a small library ..." in err) == ("this" in sys.modules) == terminal
    assert terminal or (out, err) == ("", "")


# --- what is refused ---


@click.command()
def failing() -> None:
    raise ConfigError("lr must be a number > 0, got [bold]-1[/bold].")


def test_our_errors_are_one_paragraph_on_stderr_and_a_traceback_on_demand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(screen, "failing", failing, raising=False)
    monkeypatch.setitem(COMMANDS, "failing", Lazy("nabla_eval.cli.screen:failing", "Fails."))
    result = CliRunner().invoke(main, ["failing"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: lr must be a number > 0, got [bold]-1[/bold].\n"
    traced = CliRunner().invoke(main, ["--traceback", "failing"])
    assert isinstance(traced.exception, ConfigError)


def test_an_installation_older_than_the_code_is_told_to_install_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(COMMANDS, "train", Lazy("nabla_absent.__main__:train", "Trains."))
    result = CliRunner().invoke(main, ["train", "sft"])
    assert result.exit_code == 1
    assert "needs nabla_absent, which this installation lacks" in result.stderr
    assert "pip install -e ." in result.stderr


def test_an_unknown_command_is_answered_with_a_near_one() -> None:
    result = CliRunner().invoke(main, ["tsks"])
    assert result.exit_code == 2 and "tsks" in result.output
    assert "Did you mean tasks?" in result.output


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
    group, name, *_ = command.split()
    assert f"  {name} " not in CliRunner().invoke(main, [group, "--help"]).stdout


@pytest.mark.parametrize("name", REMOVED)
def test_removed_options_of_the_method_say_why_they_went(name: str) -> None:
    for read_options in (
        lambda: configure("nabla", {name: 1}),
        lambda: arguments.read({"method": "nabla", name: 1}),
        lambda: arguments.read({name: "1"}),
    ):
        with pytest.raises(ConfigError, match=f"option '{name}' was removed: .* Leave it out"):
            read_options()
