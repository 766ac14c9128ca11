"""What nobody should write into a file: text that a terminal obeys, odd values, torn files.

`World` is a folder of every kind that commands read, which `attack` and `rewritten` change.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from run_folders import BEST_OF_N, NABLA, candidate, record, write_run
from told_runs import guided_records, searched_records, write_told_run

from nabla_eval import embedded
from nabla_eval.errors import NablaError
from nabla_eval.traces.schema import loads, seal

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


odd = st.sampled_from(["nan", "inf", "-1", "1e999", "0x10", "", " ", "None", "true", "🙂", "a=b"])
paths = st.sampled_from(["../up", "/etc/passwd", "a/../../b", "\\x00", "con", "~", "a" * 300])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), odd, paths, st.text(max_size=8),
    st.integers(0, 9),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
# Too deep for a parser's stack, a number too long for an int, no UTF-8, and no end.
torn = st.sampled_from(
    [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5_000, b"\xff\xfe{}", b"", b"{", b"\x00", b"nul"]
)
texts = torn | st.binary(max_size=40) | values.map(lambda value: json.dumps(value).encode())


@st.composite
def spoiled(draw: st.DrawFn, sound: Any) -> Any:
    """A sound value in which one part, drawn at any depth, is another value or is missing."""
    if isinstance(sound, dict) and sound and draw(st.integers(0, 4)):
        name = draw(st.sampled_from(sorted(sound, key=str)))
        if not draw(st.integers(0, 3)):
            return {key: value for key, value in sound.items() if key != name}
        return {**sound, name: draw(spoiled(sound[name]))}
    if isinstance(sound, list) and sound and draw(st.integers(0, 4)):
        place = draw(st.integers(0, len(sound) - 1))
        return [*sound[:place], draw(spoiled(sound[place])), *sound[place + 1 :]]
    return draw(values)


def answered(call: Callable[[], Any]) -> Any:
    """What a call gives, or None where it refused with one of our errors, and with words."""
    try:
        return call()
    except NablaError as error:
        assert len(str(error)) > 20
        return None


HUGE = 10**5000
TEXTS = [
    "\ud800", "a\udfffb", "\udcff", "\0", "a\0b", "\x1b[2J\x1b]0;t\x07", "\x9b31m",
    "\u202eabc\u2066", "\u200b", "\ufeff", "\r\n", "a\nb", "\t", "", " ", "a" * 5000, "日本語" * 40,
    "é", "e\u0301" * 9, "🙂", "👩\u200d👩\u200d👧", "🇩🇪", "\U000e0041", "\U0010ffff", "\ufffe",
    "[bold]x[/]", "[/]", "[link=x]", "<b>&amp;", "</script>", "=1+1", "@x", "`|*_", "$x_{$",
    "\\frac{", "{{7*7}}", "{x}", "%s%n", "../../x", "/", "a/b/c", "a/b/c/d", "/etc/passwd", "~",
    ".", "..", "con", "nan", "NaN", "inf", "1e999", "9" * 5000, "0x10", "١٢", "²", "null", "true",
    "-1", "1,2", "nabla", "running", "failed", "t/0/0", "toy/0", "toy/0/0/0", "toy/²/0", "toy/١/0",
    "\x85", "\u2028",
]  # fmt: skip
NUMBERS = [
    float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 5e-324, -0.0, 0, -1, 1, 2, 3.5, HUGE,
    -HUGE, 2**63, 2**64, 2**31, -(2**63), 10**300, 10**400, True, False, None,
]  # fmt: skip
BYTES = [
    b"", b"\n", b" ", b"{", b"[]", b"{}", b"null", b"0", b'""', b"nul", b"NaN", b"1e999",
    b"\x00" * 64, b"\xff\xfe", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"\xc3\x28",
    b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5_000, b'{"a":1,"a":2}', b"{}\n" * 20_000,
    b"{}\r\n{}\r\n", b"---\n- a: [", b"&a [*a]", b"a: &a [1]\nb: *a\n",
    b"!!python/object/apply:os.system [echo]", b"? {a: b}\n: c\n", b"2020-01-01: x\n",
    b"a: 2020-13-45\n", b"[1, 2]: 3\n", b"\x80\x04\x95", b"PK\x03\x04", b"a: " + b"9" * 5000,
]  # fmt: skip
MANIFEST: dict[str, Any] = {
    "schema": 1, "name": "run", "command": "nabla-eval run", "status": "done", "tasks": ["toy"],
    "limit": 8, "method": "nabla", "preset": None, "config": {"n": 4}, "config_hash": "ab",
    "seed": 0, "model_args": {}, "options": {}, "models": {"policy": "p"},
    "versions": {"torch": "2"}, "device": None, "batch_size": 32, "started": "2026-01-01",
    "seconds": 1.0, "wall_seconds": 2.0, "peak_memory": {"bytes": 9, "of": "process"},
    "continued": 0, "error": None,
}  # fmt: skip
SWEEP = {
    "name": "s", "tasks": ["nabla_countdown"], "seeds": [0, 1], "limit": 8, "batch_size": 4,
    "device": "cpu", "grid": {"n": [2, 4]}, "variants": [{"name": "twin", "steps": 0}],
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """Where each kind of thing is. `folders` hold runs, `files` are of the kind by their name."""

    root: Path

    def __post_init__(self) -> None:
        runs = self.root / "runs"
        verdicts: Any = ["accepted", "rejected", "tie"]
        for name, changes in {"nabla": {}, "twin": {"steps": 0}, "nabla4": {"n": 4}}.items():
            records = [
                record(i, i % 1, config={**NABLA, **changes}, text=str(4 + i % 2), reward=0.5 * i,
                       calls=20.0 + i, candidates=[candidate(verdicts[(i + j) % 3], position=j + 1)
                                                   for j in range(i)])
                for i in range(3)
            ]  # fmt: skip
            write_run(runs / name, records, [1.0, 0.0, 1.0], seed=3)
        drafts = [
            record(i, method="best_of_n", config=BEST_OF_N, drafts=[0.5, 1.0 * i, -1.0], text="4")
            for i in range(3)
        ]
        write_run(runs / "best", drafts, [1.0, 0.0, 0.0], preset="paper")
        write_told_run(self.root / "more" / "told")
        write_run(self.root / "more" / "search", searched_records(), [1.0, 1.0])
        write_run(self.root / "more" / "guided", guided_records(), [1.0])
        for home in (runs / "nabla", runs / "best", self.root / "more" / "told"):
            self.put(home / "run.json", json.dumps(MANIFEST))
        self.put(self.root / "sweep.yaml", yaml.safe_dump(SWEEP))
        row = {"problem": "1+1=?", "solution": "\\boxed{2}", "answer": "2"}
        self.put(self.root / "rows.jsonl", f"{json.dumps(row)}\n" * 2)
        problems = [{"id": i, "problem": f"{i}+1=?", "answer": str(i + 1)} for i in range(3)]
        self.put(
            self.root / "problems/aime24.jsonl", "".join(f"{json.dumps(p)}\n" for p in problems)
        )
        shutil.copytree(embedded.WEIGHTS, self.root / "pair")

    def put(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def files(self) -> list[Path]:
        """Everything that a hostile author may have written."""
        found = [path for path in self.root.rglob("*") if path.is_file()]
        return sorted(path for path in found if path.suffix in (".json", ".jsonl", ".yaml"))


def value(draw: random.Random, depth: int = 0) -> Any:
    """Something that nobody expects."""
    kind = draw.randrange(8)
    if kind < 4 or depth > 2:
        return draw.choice(TEXTS)
    if kind < 6:
        return draw.choice(NUMBERS)
    inner = [value(draw, depth + 1) for _ in range(draw.randrange(3))]
    return inner if kind == 6 else {draw.choice(TEXTS): one for one in inner}


def spoil(sound: Any, draw: random.Random) -> Any:
    """One node of a value, at any depth, is another, is gone, or is under another key."""
    if isinstance(sound, dict) and sound and draw.random() < 0.9:
        name = draw.choice(list(sound))
        kind = draw.random()
        rest = {key: one for key, one in sound.items() if key != name}
        if kind < 0.1:
            return rest
        if kind < 0.2:
            return {**rest, draw.choice(TEXTS): sound[name]}
        return {**sound, name: spoil(sound[name], draw)}
    if isinstance(sound, list) and sound and draw.random() < 0.85:
        place = draw.randrange(len(sound))
        return [*sound[:place], spoil(sound[place], draw), *sound[place + 1 :]]
    return value(draw)


def renamed(sound: Any, words: Callable[[str], str]) -> Any:
    """A value in which texts are others, the same ones everywhere, keys too."""
    if isinstance(sound, str):
        return words(sound)
    if isinstance(sound, list):
        return [renamed(one, words) for one in sound]
    if isinstance(sound, dict):
        return {key: renamed(one, words) for key, one in sound.items()}
    return sound


def loaded(content: bytes, file: Path) -> Any:
    """What a file holds; of JSON Lines the first one."""
    if file.suffix == ".yaml":
        return yaml.safe_load(content)
    return loads(content.splitlines()[0]) if file.suffix == ".jsonl" else json.loads(content)


def rewritten(content: bytes, file: Path, change: Callable[[Any], Any], line: int | None) -> bytes:
    """A file with a value changed: all of it, or one line (all for None) of JSON Lines."""
    if file.suffix == ".jsonl":
        lines = content.splitlines(keepends=True)
        for place in range(len(lines)) if line is None else [line % max(1, len(lines))]:
            lines[place] = _line(change(loads(lines[place])), file)
        return b"".join(lines)
    changed = change(loaded(content, file))
    if file.suffix == ".yaml":
        try:
            return yaml.safe_dump(changed, allow_unicode=True).encode("utf-8", "surrogatepass")
        except (ValueError, yaml.YAMLError):
            pass
    return _json(changed).encode()


def _line(changed: Any, file: Path) -> bytes:
    if file.name.startswith("trace-") and isinstance(changed, dict):
        changed.pop("check", None)
        try:
            return seal({**changed, "schema": changed.get("schema", 2)})  # type: ignore[typeddict-item]
        except (ValueError, TypeError):
            pass
    return _json(changed).encode() + b"\n"


def _json(content: Any) -> str:
    """JSON that says what no integer of Python's says: `HUGE` has more digits than it prints."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(content)
    finally:
        sys.set_int_max_str_digits(limit)


def attack(world: World, draw: random.Random, files: list[Path]) -> Iterator[str]:
    """Change files of the world, say how, and put them back when the generator goes on."""
    kept: dict[Path, bytes] = {}
    told = []

    def write(file: Path, content: bytes) -> None:
        kept.setdefault(file, file.read_bytes())
        file.write_bytes(content)

    kind = draw.random()
    if kind < 0.3:  # texts of all files, each the same wherever it stands
        table: dict[str, str] = {}
        share = draw.choice([0.05, 0.2, 0.6])

        def words(text: str) -> str:
            if text not in table:
                table[text] = draw.choice(TEXTS) if draw.random() < share else text
            return table[text]

        for file in files:
            write(file, rewritten(file.read_bytes(), file, lambda v: renamed(v, words), None))
        told.append(f"texts of {len(files)} files: {table}")
    else:
        for _ in range(draw.choice([1, 1, 1, 2, 5])):
            file = draw.choice(files)
            if kind < 0.4:
                content = draw.choice(BYTES)
                whole = file.read_bytes()
                write(
                    file, draw.choice([content, whole + content + b"\n", content + b"\n" + whole])
                )
                told.append(f"{file}: {content[:40]!r}")
                continue
            try:
                line = draw.choice([None, 0, 1, 2])
                write(file, rewritten(file.read_bytes(), file, lambda v: spoil(v, draw), line))
            except (ValueError, RecursionError, yaml.YAMLError, AttributeError):
                continue  # spoiled already
            told.append(f"{file}")
    yield "; ".join(told)[:3000]
    for file, content in kept.items():
        file.write_bytes(content)
