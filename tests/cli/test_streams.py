"""What is behind stdout and stderr: a full disk, nobody, an encoding without the signs we use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hostile import MANIFEST
from run_folders import candidate, record, write_run

from nabla_eval.cli.main import main
from nabla_eval.cli.streams import ESCAPED

PROGRAM = (sys.executable, "-m", "nabla_eval.cli.main")
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(*words: str, shell: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """The command as a shell starts it, with redirections."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    return subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "-", *PROGRAM, *words],
        capture_output=True, env={**environment, **variables}, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run folder, in a folder whose name is not ASCII."""
    folder = tmp_path_factory.mktemp("run") / "é🙂"
    write_run(folder, [record(0, text="∇", candidates=[candidate()])], [1.0])
    manifest = {**MANIFEST, "status": "done", "name": "∇ ₂ 日本"}
    (folder / "run.json").write_text(json.dumps(manifest))
    return str(folder)


WRITERS = (["--help"], ["trace", "list", "{home}"])  # by click, and by rich


@pytest.mark.parametrize("words", WRITERS)
def test_a_full_disk_is_one_line_of_error_and_a_reader_that_left_none(
    words: list[str], home: str
) -> None:
    words = [word.format(home=home) for word in words]
    full = run(*words, shell="> /dev/full")
    (line,) = full.stderr.decode().splitlines()
    assert full.returncode == 1 and line.startswith("Error: ") and "No space left" in line
    read, write = os.pipe()
    os.close(read)
    left = subprocess.run([*PROGRAM, *words], stdout=write, stderr=subprocess.PIPE, check=False)
    assert (left.returncode, left.stderr) == (1, b"")
    os.close(write)


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-"])
def test_streams_that_are_closed_from_the_start_are_nowhere(
    closed: str, home: str, tmp_path: Path
) -> None:
    """The first file that is opened must not become stdout."""
    done = run("trace", "html", home, "-o", str(tmp_path), shell=closed)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    (page,) = tmp_path.iterdir()
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_an_encoding_lacks_is_escaped_as_in_json(home: str) -> None:
    text = "∇ é 🙂 \ud800"
    assert json.loads(json.dumps([text], ensure_ascii=False).encode("ascii", ESCAPED)) == [text]
    assert "é".encode("latin-1", ESCAPED) == b"\xe9"
    made = run("report", "accuracy", home, "--json", PYTHONIOENCODING="ascii:strict")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout.decode("ascii"))["runs"][0]["run"]
    told = run("trace", "show", home, "0", PYTHONIOENCODING="ascii:strict")
    assert told.returncode == 0 and b"\\u2207" in told.stdout


def test_files_are_utf_8_whatever_the_locale(home: str, tmp_path: Path) -> None:
    done = run("report", "all", home, "--output", str(tmp_path / "ü"), **C_LOCALE)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ü" / "report.md").read_text(encoding="utf-8").isascii()
    assert json.loads((tmp_path / "ü" / "report.json").read_text(encoding="utf-8"))["accuracy"]


def test_what_the_system_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    (tmp_path / "trace-rank0.jsonl").mkdir()
    for place in (tmp_path / "a", tmp_path / ("x" * 300), tmp_path):
        result = CliRunner().invoke(main, ["report", "accuracy", str(place)])
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
        assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
