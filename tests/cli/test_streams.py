"""What is behind stdout and stderr: a full disk, nobody, an encoding without the signs we use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from run_folders import candidate, record, write_run

from nabla_eval.cli.main import main
from nabla_eval.cli.streams import plain

ROOT = Path(__file__).resolve().parents[2]
ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii:strict"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


def run(*words: str, shell: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """The command as a shell starts it, with redirections."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    return subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "-", sys.executable, "-m", "nabla_eval.cli.main", *words],
        capture_output=True, env={**environment, **variables}, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run folder."""
    folder = tmp_path_factory.mktemp("run")
    return str(write_run(folder, [record(0, candidates=[candidate()])], [1.0]))


# By click, by `say`, by rich.
WRITERS = (["--help"], ["report", "accuracy", "{home}", "--json"], ["trace", "list", "{home}"])


@pytest.mark.parametrize("words", WRITERS)
def test_a_full_disk_behind_stdout_is_one_line_of_error(words: list[str], home: str) -> None:
    done = run(*(word.format(home=home) for word in words), shell="> /dev/full")
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("Error: ") and "No space left on device" in line


@pytest.mark.parametrize("words", WRITERS)
def test_a_reader_that_leaves_ends_a_command_without_a_word(words: list[str], home: str) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "nabla_eval.cli.main", *(w.format(home=home) for w in words)]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
    os.close(write)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_streams_that_are_closed_from_the_start_are_nowhere(
    closed: str, home: str, tmp_path: Path
) -> None:
    done = run("trace", "list", home, shell=closed)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert (b"toy/0/0" in done.stdout) == (not closed.startswith(">"))
    # The first file that is opened must not become stdout.
    assert run("trace", "html", home, "-o", str(tmp_path), shell=closed).returncode == 0
    (page,) = tmp_path.iterdir()
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run("trace", "list", str(tmp_path / "no"), shell=closed).returncode == 1


@pytest.mark.parametrize("kind", ENCODINGS)
def test_a_locale_without_our_signs_gets_others(kind: str, tmp_path: Path) -> None:
    encoding = "latin-1" if kind == "latin-1" else "ascii"
    home = write_run(tmp_path / "é🙂", [record(0, candidates=[candidate()])], [1.0])
    (home / "run.json").write_text(json.dumps({"status": "done", "name": "∇ ₂ 日本"}))
    done = run("report", "accuracy", str(home), **ENCODINGS[kind])
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding)
    assert "nabla" in shown and "─" not in shown
    click = "latin-1" if kind == "latin-1" else "utf-8"  # it takes ASCII for a wrong setting
    assert "nabla-eval demo" in run("--help", **ENCODINGS[kind]).stdout.decode(click)
    made = run("report", "accuracy", str(home), "--json", **ENCODINGS[kind])
    assert json.loads(made.stdout.decode(click))["runs"]


def test_files_are_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    home = write_run(tmp_path / "é", [record(0, candidates=[candidate()])], [1.0])
    out = tmp_path / "ü"
    done = run("report", "all", str(home), "--output", str(out), **ENCODINGS["C"])
    assert done.returncode == 0, done.stderr
    assert not (out / "report.md").read_text(encoding="utf-8").isascii()
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["accuracy"]
    assert run("trace", "html", str(home), "-o", str(out), **ENCODINGS["C"]).returncode == 0


def test_every_character_has_a_spelling_and_none_becomes_markup() -> None:
    for code in (*range(128, 0x3000), *range(0xD800, 0xE000), *range(0xFE00, 0x10000), 0x1F642):
        spelled = plain(chr(code))
        assert spelled.isascii() and spelled and '"' not in spelled and "[" not in spelled
    assert [plain(c) for c in "∇₂│🙂\ud800"] == ["nabla", "2", "|", "\\ud83d\\ude42", "\\ud800"]


def test_what_the_system_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    (tmp_path / "trace-rank0.jsonl").mkdir()
    for place in (tmp_path / "a", tmp_path / ("x" * 300), tmp_path):
        result = CliRunner().invoke(main, ["report", "accuracy", str(place)])
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
        assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
