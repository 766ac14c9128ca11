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
from collections.abc import MutableMapping
from typing import Any, TypedDict

from nabla_eval.options import REMOVED, fingerprint
from nabla_eval.outcome import StopReason, Verdict
from nabla_eval.protocol import Problem

SCHEMA = 2  # since which each line has a checksum
READABLE = (1, SCHEMA)
# How `seal` begins a line.
_ID = re.compile(rb'{"schema":%d,"id":("(?:[^"\\]|\\.)*"),' % SCHEMA)
_CHECK = re.compile(rb',"check":"([0-9a-f]{12})"}\n?$')
# Options that ∇-Reasoner got after traces were written without them, with what it did until then.
_LATER: dict[str, Any] = {
    "end_token": "template", "threshold_inclusive": False, "schedule": "cosine",
    "optimizer": "adamw", "logits_dtype": "float32", "relaxation_temperature": None,
}  # fmt: skip
_FLOAT = "$float"  # {"$float": "inf"} stands for a number that JSON has no word for


class DraftRecord(TypedDict):
    """One complete response drawn from the prompt."""

    index: int
    tokens: list[int]
    text: str
    stop: StopReason
    reward: float | None


class _Candidate(TypedDict):
    index: int
    sweep: int
    position: int
    entropy: float
    top_probability: float
    gradient_norm: float | None
    old_token: int
    new_token: int
    old_text: str  # the old token as text
    new_text: str
    context: str  # text of the (at most `CONTEXT_TOKENS`) tokens before the position
    old_reward: float
    new_reward: float
    verdict: Verdict
    tokens: list[int]
    text: str
    stop: StopReason
    flips: int
    moved: float
    compared_reward: float | None


class CandidateRecord(_Candidate, total=False):
    """One judged revision: `requests.Candidate` and the texts around it."""

    certified: bool  # older records have none


class StepRecord(TypedDict):
    """One move of a search: a step of a response, a critique, a revision."""

    index: int
    parent: int | None
    kind: str
    tokens: list[int]
    text: str
    stop: StopReason
    value: float | None
    visits: int
    note: str


class ChoiceRecord(TypedDict):
    """One token chosen with the reward model's help, with the texts of old and new token."""

    index: int
    position: int
    by: str
    top_probability: float
    old_token: int
    new_token: int
    old_log_probability: float
    new_log_probability: float
    old_gradient: float | None
    new_gradient: float | None
    old_score: float | None
    new_score: float | None
    scored: int
    old_text: str
    new_text: str


class _Outcome(TypedDict):
    text: str
    tokens: list[int]
    stop: StopReason
    reward: float | None
    ended: str
    visited: int
    positions: int


class OutcomeRecord(_Outcome, total=False):
    """The outcome that the method returned."""

    certified: int  # older records have none


class LedgerRecord(TypedDict):
    """The counts of `cost.Ledger` that reports read; others came later, or are not read."""

    model_calls: float
    generated_tokens: float
    gradient_passes: float
    scorings: float
    speculative_tokens: float
    speculative_scorings: float
    speculative_passes: float
    flops: float


class Profile(TypedDict):
    """One response token by token."""

    tokens: list[str]  # as text, special tokens visible
    entropy: list[float]  # nats, of the policy at each position
    gradient_norms: dict[str, float]  # by position, where a gradient was looked at


class Profiles(TypedDict, total=False):
    """The first draft and, if it is another, the returned response."""

    first: Profile
    final: Profile


class _Required(TypedDict):
    schema: int
    id: str  # task/document/repeat
    problem_hash: str  # of prompt ids, reward frame, length limit and stop strings
    key: str  # of the problem's randomness, hexadecimal: it depends on the seed
    prompt: str
    method: str
    config: dict[str, Any]  # flat options, defaults included
    config_hash: str
    models: dict[str, Any]  # names and fingerprints of policy and reward model
    drafts: list[DraftRecord]
    candidates: list[CandidateRecord]
    outcome: OutcomeRecord
    ledger: dict[str, float]
    seconds: float
    versions: dict[str, str | None]


class Record(_Required, total=False):
    """One line of a trace: one problem, answered by one method."""

    steps: list[StepRecord]  # of search methods; records of before they existed have none
    choices: list[ChoiceRecord]  # of guided methods; other records have none
    profiles: Profiles  # token by token, for the viewer; older records have none


def complete(stored: MutableMapping[str, Any]) -> None:
    """Give a record or manifest of an older version the options of this one.

    Those that it could not name are added, and those that did nothing in it and are no more are
    left out. Its runs are then those of this version with the same options: they continue and are
    pooled. A record of a removed option that did something keeps it.
    """
    options = stored["config"]
    if stored["method"] != "nabla" or stored["config_hash"] != fingerprint(options):
        return
    gone = {name for name in options if name in REMOVED}
    if any(REMOVED[name][0] not in (..., options[name]) for name in gone):
        gone = set()
    if gone or _LATER.keys() - options.keys():
        kept = {name: value for name, value in options.items() if name not in gone}
        stored["config"] = {**_LATER, **kept}
        stored["config_hash"] = fingerprint(stored["config"])


def problem_hash(problem: Problem) -> str:
    """Short hash of everything that a problem asks: equal exactly when the inputs are."""
    frame = problem.frame
    asked: list[Any] = [
        problem.prompt,
        frame.before,
        frame.after,
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
    """One line of standard ASCII JSON; infinities and NaN survive as tagged objects."""
    return json.dumps(_tag(value), allow_nan=False, separators=(",", ":"))


def seal(record: Record) -> bytes:
    """A record as one line of a trace, newline included."""
    body = dumps(record).encode()
    return body[:-1] + b',"check":"' + _checksum(body).encode() + b'"}\n'


def unseal(line: bytes) -> Any:
    """Return what a line holds, without its checksum.

    Raises ValueError for a line that is not standard JSON, or not what was once sealed.
    """
    record = loads(line)
    if not isinstance(record, dict) or (record.get("schema") != SCHEMA and "check" not in record):
        return record  # of before there were checksums, or no trace at all
    if not _sealed(line):
        raise ValueError("its checksum is wrong: the line is not what was written")
    del record["check"]
    return record


def identifier(line: bytes) -> str | None:
    """The id of a sealed record, without parsing the rest; None for a line that needs parsing."""
    found = _ID.match(line)
    return json.loads(found[1]) if found is not None and _sealed(line) else None


def _sealed(line: bytes) -> bool:
    """Return whether a line ends in the checksum of what stands before it."""
    found = _CHECK.search(line, max(0, len(line) - 40))
    return found is not None and _checksum(line[: found.start()] + b"}") == found[1].decode()


def _checksum(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=6).hexdigest()


def loads(text: str | bytes) -> Any:
    """Inverse of `dumps`. Raises ValueError for anything that is not standard JSON."""
    try:
        tagged = _FLOAT in text if isinstance(text, str) else _FLOAT.encode() in text
        hook = _untag if tagged else None  # it would be called for each of hundreds of objects
        return json.loads(text, object_hook=hook, parse_constant=_refuse)
    except (TypeError, RecursionError) as error:  # a tag around a list; brackets too deep
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _tag(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    if isinstance(value, dict):
        return {key: _tag(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_tag(item) for item in value]
    return value


def _untag(value: dict[str, Any]) -> Any:
    return float(value[_FLOAT]) if value.keys() == {_FLOAT} else value


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not standard JSON")
