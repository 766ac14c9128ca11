"""Text that a terminal would obey, put into each string of a file, and a look at what came out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

# A cleared screen, a title, a link, 8-bit CSI and OSC, bidi, what nobody sees, tags, and markup.
HOSTILE = (
    "\x1b[2J\x1b[45;97m\x1b]0;owned\x07\x1b]8;;http://x\x1b\\\x9b2J\x9d0;t\x9c\x00\x08\r\x7f\x85"
    "\u202e\u202a\u2066\u2069\u200e\u200f\u061c\u200b\u200c\u200d\u2060\ufeff\u00ad\u180e\u3164"
    "\U000e0041\U000e0100\ufe01\u2028\u2029[red]mark[/red][link=http://x]up[/link]:smile:"
)
STYLE = "\x1b[45;97m"  # of those in it; none of our own
# What rich and tqdm write to a terminal by themselves: colours, erased lines, moves, the cursor.
OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\d*[AK]|\x1b\[\?25[lh]|\r")


def unseen(text: str, *, terminal: bool = False) -> list[str]:
    """Each character of printed text that is not seen, or is obeyed."""
    text = OWN.sub("", text.replace("\r\n", "\n")) if terminal else text
    hidden = "\u034f\u115f\u1160\u3164\uffa0"
    return sorted(
        {
            ascii(c) for c in text
            if c not in "\n\t"
            and (unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") or c in hidden
                 or 0xFE00 <= ord(c) <= 0xFE0F or 0xE0000 <= ord(c) <= 0xE0FFF)
        }
    )  # fmt: skip


def spoilings(sound: Any) -> Iterator[Any]:
    """Copies of a value, in each of which one string or key is foreign, or ends so by turns."""
    for number, (place, string) in enumerate(_strings(sound, ())):
        yield _changed(sound, place, (string if number // 2 % 2 else "") + HOSTILE)


def _strings(value: Any, place: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(value, str):
        yield (*place, "value"), value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield (*place, key, "key"), key
            yield from _strings(item, (*place, key))
    elif isinstance(value, list):
        for number, item in enumerate(value[:2]):
            yield from _strings(item, (*place, number))


def _changed(value: Any, place: tuple[Any, ...], new: str) -> Any:
    head, *rest = place
    if place == ("value",):
        return new
    if isinstance(value, list):
        return [_changed(x, tuple(rest), new) if i == head else x for i, x in enumerate(value)]
    if rest == ["key"]:
        return {(new if key == head else key): item for key, item in value.items()}
    return {k: _changed(x, tuple(rest), new) if k == head else x for k, x in value.items()}
