"""What may reach a terminal: characters that can be seen, and nothing that it would obey."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hostile import HOSTILE, OWN, STYLE, unseen
from hypothesis import given
from hypothesis import strategies as st
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text
from run_folders import write_run
from told_runs import told_records

from nabla_eval.cli.screen import Screen
from nabla_eval.terminal import LOGGER, Guard, printable, say, visible

READABLE = [
    "你好，世界 日本語", "العربية",
    "עברית", "é e\u0301 ∇ ½", "👍🏽", "👩‍👩‍👧", "❤️‍🔥", "🏳️‍🌈", "1️⃣", "ℹ️", "‼️",
    "©\ufe0f ㊙\ufe0f", "می‌خواهم", "क्‍ष", "A\nB\tC", "a\u00a0b　c",
]  # fmt: skip
INVISIBLE = [
    *map(chr, [*range(9), *range(0xB, 0x20), *range(0x7F, 0xA0), 0xAD, 0x61C, 0x180E, 0x115F]),
    *map(chr, [*range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0x3164]),
    *map(chr, [0xFEFF, 0xFFF9, 0xFFFB, 0xFE01, 0xFE0F, 0xD800, 0xDFFF, 0x34F]),
    *map(chr, [0xE0001, 0xE0041, 0xE007F, 0xE0100, 0xE01EF]),
]


@pytest.mark.parametrize("text", READABLE)
def test_what_people_write_is_left_alone(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
def test_what_nobody_sees_is_spelled_out(character: str) -> None:
    for around in ("{}", "ab{}cd", "a{0}{0}", "7{}7", "+{}+", "я{}я", "-{}"):
        text = around.format(character)
        assert not unseen(visible(text)), ascii(visible(text))
        assert "\\" in visible(text) and visible(visible(text)) == visible(text)


def test_a_joiner_stays_only_where_something_is_joined() -> None:
    for text in (
        "❤\u200da", "a\u200d❤", "^\u200d+", "م\u200ca", "م\u200c\u200cم", "❤\ufe0f\ufe0f",
        "日\u200d本", "❤\u200d日",
    ):  # fmt: skip
        assert "\\u" in visible(text), ascii(text)


def test_one_line_has_neither_line_breaks_nor_odd_spaces() -> None:
    assert printable("a\nb\tc\r\nd\u2003e\u3000f") == "a\\nb\\tc\\nd e f"
    assert visible("a\r\nb\rc") == "a\nb\\rc"


@given(st.dictionaries(st.text(), st.text()))
def test_json_says_the_same_after_it(value: dict[str, str]) -> None:
    for text in (json.dumps(value, ensure_ascii=False), json.dumps({**value, HOSTILE: HOSTILE})):
        assert json.loads(visible(text)) == json.loads(text)


@given(st.text())
def test_nothing_gets_through(text: str) -> None:
    assert not unseen(re.sub("[\u200c\u200d\ufe0e\ufe0f]", "", visible(text)))


def test_say_and_the_screen_print_it_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    file = io.StringIO()
    say(HOSTILE, file=file)
    assert not unseen(file.getvalue())
    screen = Screen(file)
    table = Table(title=HOSTILE, caption=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, style="red"))
    styled, page = Text(HOSTILE, style="bold"), Markdown(f"[x](http://x) {HOSTILE}")
    for thing in (HOSTILE, styled, table, page):
        screen.print(thing, style="green")
    printed = file.getvalue()
    assert not unseen(OWN.sub("", printed)) and "\x1b[" in printed and "\x1b]8" not in printed
    assert STYLE not in printed
    assert "[red]mark[/red]" in printed and ":smile:" in printed


def test_a_column_stays_a_column() -> None:
    """Text that is longer when it is spelled out takes no room from its neighbours."""
    file = io.StringIO()
    table = Table(width=30)
    table.add_row("a\u202e" * 40, "7")
    Screen(file).print(table)
    assert {len(line) for line in file.getvalue().splitlines()} == {30}


def test_the_log_is_visible_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    handler = logging.StreamHandler(io.StringIO())
    LOGGER.addHandler(handler)
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        LOGGER.warning("%s failed: %.500s, %d", HOSTILE, error, 3, exc_info=True)
    finally:
        LOGGER.removeHandler(handler)
    printed = handler.stream.getvalue()
    assert "ValueError" in printed and ", 3\n" in printed and not unseen(printed)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_guard_lets_moves_of_bars_through_to_terminals_only() -> None:
    written = ["\r 50%|██  |", "\n", "\x1b[A", f"\x1b[31mx\x1b[0m{HOSTILE}", "\r"]
    for kind, up in ((Terminal, "\x1b[A"), (io.StringIO, "")):
        guard = Guard(kind())
        guard.writelines(written)
        text = guard.getvalue().removeprefix(f"\r 50%|██  |\n{up}x").removesuffix("\r")
        assert text == visible(HOSTILE.replace(STYLE, ""))
    guard.write(f"{STYLE}é\u202e".encode())  # as click does without a buffer
    assert guard.getvalue().endswith("é\\u202e")
    assert not hasattr(guard, "buffer") and not guard.isatty()


RAISES = """
import logging, sys, warnings
from nabla_eval.terminal import guard_streams
guard_streams(); guard_streams()
text = sys.argv[1]
print(text); print(text, file=sys.stderr); warnings.warn(text)
logging.getLogger("other").warning(text)
from tqdm import tqdm
list(tqdm([1], desc=text))
class Wrong(Exception): pass
raise Wrong(text)
"""
HOOK = """
import sys
from nabla_eval.errors import ContextError
from nabla_eval.harness.preflight import plain_errors
plain_errors()
raise ContextError(sys.argv[1])
"""
ARGUMENTS = """
import sys
from nabla_eval.harness.preflight import check_command_line
check_command_line(["run", "--model", "nabla", "--model_args", f"{sys.argv[1]}=3"])
"""
USAGE = "import sys; from nabla_eval.cli.main import main; main(['report', sys.argv[1]])"


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        pytest.param(RAISES, 1, ("Traceback", "UserWarning"), id="python and libraries"),
        pytest.param(HOOK, 1, ("Error: ",), id="an error under lm_eval"),
        pytest.param(ARGUMENTS, 1, ("Error: ",), id="model arguments under lm_eval"),
        # click encodes by itself where a stream knows only ASCII.
        pytest.param(USAGE, 2, ("Usage: ",), id="usage"),
    ],
)
def test_what_a_process_prints_is_visible(script: str, status: int, said: Sequence[str]) -> None:
    encoding = {"PYTHONIOENCODING": "ascii"} if script is USAGE else {}
    done = subprocess.run(
        [sys.executable, "-c", script, HOSTILE.replace("\x00", "")],
        env={**os.environ, **encoding}, capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert done.returncode == status and "mark" in done.stderr
    assert all(word in done.stderr for word in said)
    assert ("Traceback" in done.stderr) == (script is RAISES) == bool(done.stdout)
    assert not unseen(done.stdout) and not unseen(done.stderr.replace("\r", "\n"))


def on_a_terminal(*command: str, **environment: str) -> str:
    """What a command writes to a pseudoterminal."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=follower, stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
    ):  # fmt: skip
        os.close(follower)
        read = b""
        with suppress(OSError):  # when the other end is closed
            while part := os.read(leader, 65536):
                read += part
    os.close(leader)
    return read.decode()


def test_a_terminal_gets_our_own_styles_and_nothing_else(tmp_path: Path) -> None:
    name = f"run{HOSTILE[:9]}"
    records = [{**each, "prompt": HOSTILE} for each in told_records()]
    run = write_run(tmp_path / name, records, [1.0, 0.0, 0.0])
    program = (sys.executable, "-m", "nabla_eval.cli.main")
    shown = on_a_terminal(*program, "trace", "show", str(run), "0")
    assert "\x1b[1" in shown and "[red]mark" in shown  # bold, as nothing in the trace asked for
    refused = on_a_terminal(*program, "trace", "show", str(run), HOSTILE.replace("\x00", ""))
    assert "\x1b[1;31mError: " in refused
    wrong = on_a_terminal(*program, "report", HOSTILE.replace("\x00", ""))
    for text in (shown, refused, wrong):
        assert text.strip() and STYLE not in text and not unseen(text, terminal=True)
