"""The JSON of a trace line, and how numbers that JSON does not know are written.

The format is versioned: a change that an old reader would misread raises `SCHEMA`, and new keys do
not. Each line ends in a checksum of itself, because a damaged digit is still a number.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import msgspec

from nabla_eval.options import REMOVED, RENAMED, fingerprint
from nabla_eval.outcome import Answer, Candidate, Choice, Draft, JsonObject, Step
from nabla_eval.protocol import Problem

SCHEMA = 2  # since which each line has a checksum
READABLE = (1, SCHEMA)
TAIL = 40  # bytes at the end of a line, with its checksum among them
_CHECK = re.compile(rb',"check":"([0-9a-f]{12})"}\n?$')
# Options that methods got after traces were written without them, with what they did until then.
_LATER: dict[str, dict[str, Any]] = {
    "nabla": {
        "end_token": "template", "threshold_inclusive": False, "schedule": "cosine",
        "optimizer": "adamw", "logits_dtype": "float32", "relaxation_temperature": None,
    },
    "tree_of_thought": {"step_score": "last"},
}  # fmt: skip
_SELDOM = ("question", "choices", "profiles")  # written where there is something in them
FLOAT = "$float"  # {"$float": "inf"} stands for a number that JSON has no word for


class Profile(TypedDict):
    """One response token by token."""

    tokens: list[str]  # as text, special tokens visible
    entropy: list[float]  # nats, of the policy at each position
    gradient_norms: dict[str, float]  # by position, where a gradient was looked at


@dataclass(frozen=True, kw_only=True)
class Record(JsonObject):
    """One line of a trace: one problem, answered by one method. It reads as a mapping too."""

    schema: int = SCHEMA
    id: str  # task/document/repeat
    problem_hash: str  # of prompt ids, reward affixes, length limit and stop strings
    key: str  # of the problem's randomness, hexadecimal: it depends on the seed
    prompt: str
    question: str = ""  # what the user asks in it; "" where that is all of the prompt
    method: str
    config: dict[str, Any]  # flat options, defaults included
    config_hash: str
    models: dict[str, Any]  # names and fingerprints of policy and reward model
    drafts: tuple[Draft, ...]
    candidates: tuple[Candidate, ...]
    steps: tuple[Step, ...] = ()  # of search methods
    outcome: Answer
    ledger: dict[str, int | float]  # of `cost.Ledger`, with at least the names of `COUNTS`
    seconds: float
    versions: dict[str, str | None]
    choices: tuple[Choice, ...] = ()  # of guided methods
    profiles: dict[str, Profile] = field(default_factory=dict)  # "first" draft, "final" response


# Counts that every ledger has; the others came later.
COUNTS = (
    "model_calls", "generated_tokens", "gradient_passes", "scorings", "speculative_tokens",
    "speculative_scorings", "speculative_passes", "flops",
)  # fmt: skip
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def decode(line: bytes) -> Record:
    """Return the record in a line. Raises ValueError where a slower look has to say what is wrong.

    Not every sound line is decoded here: infinities and half characters take the slower look too.
    """
    if FLOAT.encode() in line:
        raise ValueError("numbers that JSON does not know")
    try:
        record = _DECODER.decode(line)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if record.schema != SCHEMA or not sealed(line):
        raise ValueError("no line of this version")
    return record


def as_record(stored: Any) -> Record:
    """Return a mapping as the record that it is. Raises `msgspec.ValidationError`."""
    return stored if isinstance(stored, Record) else msgspec.convert(stored, Record)


def complete(method: str, options: dict[str, Any], stored_hash: str) -> dict[str, Any]:
    """Return the options of a record or manifest as this version would name them.

    Those that an older version could not name are added, and those that did nothing in it and are
    no more are left out. Its runs are then those of this version with the same options: they
    continue and are pooled. A record of a removed option that did something keeps it.
    """
    later = _LATER.get(method, {})
    removed = REMOVED if method == "nabla" else {}
    if not (options.keys() & {*removed, *RENAMED} or later.keys() - options.keys()):
        return options
    if stored_hash != fingerprint(options):
        return options
    gone = {name for name in options if name in removed}
    if any(REMOVED[name][0] not in (..., options[name]) for name in gone):
        gone = set()
    kept = {name: value for name, value in options.items() if name not in gone}
    return {**later, **dict(_as_now(name, value) for name, value in kept.items())}


def _as_now(name: str, value: Any) -> tuple[str, Any]:
    if name not in RENAMED:
        return name, value
    return RENAMED[name], "prod" if value == "product" else value


def problem_hash(problem: Problem) -> str:
    """Short hash of everything that a problem asks: equal exactly when the inputs are."""
    affixes = problem.affixes
    asked: list[Any] = [
        problem.prompt,
        affixes.before,
        affixes.after,
        problem.max_new_tokens,
        problem.stop,
    ]
    if problem.thought is not None:  # else as before there were thoughts
        asked.append(dataclasses.astuple(problem.thought))
    return hashlib.blake2b(json.dumps(asked).encode(), digest_size=8).hexdigest()


def document(identifier: str) -> str:
    """The task/document part of a problem id: what repeats of one problem share."""
    return identifier.rpartition("/")[0] or identifier


def dumps(value: Any) -> str:
    """Return one line of standard ASCII JSON; infinities and NaN survive as tagged objects."""
    if isinstance(value, Record):
        value = {name: own for name, own in value.items() if own or name not in _SELDOM}
    plain = msgspec.to_builtins(value)
    try:
        return json.dumps(plain, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_tag(plain), allow_nan=False, separators=(",", ":"))


def seal(record: Mapping[str, Any]) -> bytes:
    """Return a record as one line of a trace, newline included."""
    body = dumps(record).encode()
    return body[:-1] + b',"check":"' + _checksum(body).encode() + b'"}\n'


def unseal(line: bytes) -> Any:
    """Return what a line holds, without its checksum.

    Raises ValueError for a line that is not standard JSON, or not what was once sealed.
    """
    record = loads(line)
    if not isinstance(record, dict) or (record.get("schema") != SCHEMA and "check" not in record):
        return record  # of before there were checksums, or no trace at all
    if not sealed(line):
        raise ValueError("its checksum is wrong: the line is not what was written")
    del record["check"]
    return record


def check_of(line: bytes) -> str | None:
    """Return the checksum that ends a line; None for a line without one."""
    found = _CHECK.search(line, max(0, len(line) - TAIL))
    return None if found is None else found[1].decode()


def sealed(line: bytes) -> bool:
    """Return whether a line ends in the checksum of what stands before it."""
    found = _CHECK.search(line, max(0, len(line) - TAIL))
    return found is not None and _checksum(line[: found.start()] + b"}") == found[1].decode()


def _checksum(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=6).hexdigest()


def loads(text: str | bytes) -> Any:
    """Inverse of `dumps`. Raises ValueError for anything that is not standard JSON."""
    try:
        tagged = FLOAT in text if isinstance(text, str) else FLOAT.encode() in text
        hook = _untag if tagged else None  # it would be called for each of hundreds of objects
        return json.loads(text, object_hook=hook, parse_constant=_refuse)
    except (TypeError, RecursionError) as error:  # a tag around a list; brackets too deep
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _tag(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: str(value)}
    if isinstance(value, dict):
        return {key: _tag(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_tag(item) for item in value]
    return value


def _untag(value: dict[str, Any]) -> Any:
    return float(value[FLOAT]) if value.keys() == {FLOAT} else value


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not standard JSON")
