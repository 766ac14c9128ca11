"""Which problems are trained on: none that is evaluated, none twice, a seeded part of the rest.

They come from JSON Lines files, hub data sets with the paper's subsets, and Countdown.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict

from nabla_eval.embedded.countdown import Puzzle, moves, problems, reachable
from nabla_eval.errors import DataError, suggest
from nabla_eval.grading import extract
from nabla_eval.randomness import Key
from nabla_eval.validation import UNREADABLE, text_of
from nabla_training.reward import Verifier

PROBLEM = ("problem", "prompt", "question")
SOLUTION = ("solution", "completion", "response")
ANSWER = ("answer", "final_answer", "gold")
COUNTDOWN = {"countdown": 3, "countdown4": 4}  # name: numbers of a problem
COUNTDOWN_SIZE = 4000


@dataclass(frozen=True)
class Example:
    """One problem: `solution` is what SFT imitates, `answer` what GRPO's reward compares with."""

    problem: str
    solution: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Rows:
    """The problem of every row, and `example`, which reads one row: only chosen ones are read."""

    name: str
    problems: Sequence[str]
    example: Callable[[int], Example]
    size: int | None = None  # how many are meant, where a name says so


# --- rows of files and data sets ----------------------------------------------------------------


def open_rows(name: str, *, split: str = "train", size: int | None = None, seed: int = 0) -> Rows:
    """Open a JSON Lines file, a named subset, a hub id or folder, or the embedded task.

    `split` is a hub data set's; size and seed choose Countdown problems, which are made here.
    Raises `DataError` where there is nothing, or something else, with its line.
    """
    if name in COUNTDOWN:
        count = COUNTDOWN_SIZE if size is None else size
        drawn = problems(count, "train", numbers=COUNTDOWN[name], seed=seed)

        def solved(index: int) -> Example:
            puzzle = drawn[index]
            return Example(puzzle.prompt, one_solution(puzzle, seed), str(puzzle.target))

        return Rows(name, [puzzle.prompt for puzzle in drawn], solved)
    if name in SUBSETS:
        return SUBSETS[name](name, split=split)
    path = Path(name).expanduser()
    if path.suffix in (".jsonl", ".json") or os.path.isfile(path):
        examples = list(_lines(path))
        return Rows(name, [example.problem for example in examples], examples.__getitem__)
    if "/" not in name and not os.path.isdir(path):
        raise DataError(
            f"No data {name!r}: neither a file nor a name that is known here. "
            f"{suggest(name, [*COUNTDOWN, *SUBSETS])} Hub ids look like AI-MO/NuminaMath-CoT."
        )
    return _hub(name, name, split=split)


def _lines(path: Path) -> Iterator[Example]:
    try:
        text = text_of(path)
    except UNREADABLE as error:
        raise DataError(f"Cannot read {path}: {error}. Give a JSON Lines file in UTF-8.") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise DataError(f"is a {type(row).__name__}, not an object")
            yield _standard(row)
        except UNREADABLE as error:  # a DataError, too, is a ValueError
            raise DataError(
                f"{path}, line {number}: {error}. Every line is an object such as "
                '{"problem": "1+1=?", "solution": "1+1=2", "answer": "2"}.'
            ) from None


def _standard(row: Mapping[str, Any]) -> Example:
    """Read a column of each group of names; answers are taken out of solutions if need be."""
    problem, solution, answer = (_first(row, names) for names in (PROBLEM, SOLUTION, ANSWER))
    if problem is None:
        found = ", ".join(map(repr, row)) or "nothing"
        raise DataError(f"has none of the keys {', '.join(PROBLEM)} with a text, but {found}")
    if answer is not None and ("####" in answer or "\\boxed" in answer):
        solution, answer = solution or answer, extract(answer)
    if answer is None and solution is not None:
        answer = extract(solution)
    return Example(problem, solution, answer)


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Return the first of the named columns that holds a text or a number."""
    for value in map(row.get, names):
        readable = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        if readable and (text := str(value).strip()):
            return text
    return None


def _open_thoughts(row: Mapping[str, Any], *, thought: bool) -> Example:
    """With its thought before a solution, which is what OpenThoughts' authors train on."""
    solution = str(row["deepseek_solution"]).strip()
    before = f"<think>\n{str(row['deepseek_reasoning']).strip()}\n</think>\n\n" if thought else ""
    return Example(str(row["problem"]).strip(), before + solution, extract(solution))


def _hub(
    name: str,
    path: str,
    read: Callable[[Mapping[str, Any]], Example] = _standard,
    *,
    split: str,
    size: int | None = None,
    config: str | None = None,
    domain: str | None = None,
) -> Rows:
    """Open a hub data set (or a folder that `datasets` reads): rows of one domain, if one is named.

    Raises `DataError` where it cannot be had, or no column has a name that problems go by.
    """
    import datasets

    try:
        rows = datasets.load_dataset(path, config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"Cannot load the data set {path} (split {split}): {error} "
            "Check the name and the connection, or give a JSON Lines file."
        ) from error
    column = next((one for one in PROBLEM if one in rows.column_names), None)
    if column is None:
        raise DataError(
            f"{name} has none of the columns {', '.join(PROBLEM)}, but "
            f"{', '.join(rows.column_names)}. Write it as JSON lines with a key 'problem', and "
            "'solution' or 'answer'."
        )
    if domain is not None:
        rows = rows.select([i for i, found in enumerate(rows["domain"]) if found == domain])
    texts = [str(text or "") for text in rows[column]]
    return Rows(name, texts, lambda index: read(rows[index]), size)


# The sizes are the paper's; its choice of rows is not published, so ours is the seed's. Of
# Open-Thoughts the mathematics, since that is what is evaluated. Its thoughts run to thousands of
# tokens, far beyond the 1024-3072 that the paper lets a response have: hence -solutions.
_THOUGHTS = partial(
    _hub, path="open-thoughts/OpenThoughts-114k", size=10_000, config="metadata", domain="math"
)
SUBSETS: Mapping[str, partial[Rows]] = {
    "open-thoughts-10k": partial(_THOUGHTS, read=partial(_open_thoughts, thought=True)),
    "open-thoughts-10k-solutions": partial(_THOUGHTS, read=partial(_open_thoughts, thought=False)),
    "numinamath-35k": partial(_hub, path="AI-MO/NuminaMath-CoT", size=35_000),
}


# --- solutions of Countdown ---------------------------------------------------------------------


def one_solution(problem: Puzzle, seed: int = 0) -> str:
    """Return a solution that is a function of (seed, problem), or `DataError` if there is none.

    Sums and products have the previous result first, else the larger number: the one way to write
    a calculation that the policy was taught (`reports/embedded/training_rows.py`).
    """
    key = Key.root(seed) / "countdown solution" / problem.canonical
    steps = _steps_to(list(problem.numbers), None, problem.target, key)
    if steps is None:
        raise DataError(f"{problem.prompt} has no solution. Leave it out.")
    return ";".join(steps)


def _steps_to(values: list[int], previous: int | None, target: int, key: Key) -> list[str] | None:
    """Find steps from the available values to the target; the steps so far draw each choice."""
    if len(values) == 1:
        return [] if values[0] == target else None
    options = []
    for left, operator, right, result, rest in moves(values):
        first = left == previous if previous in (left, right) else left >= right
        if (operator in "-/" or first) and target in reachable(tuple(sorted((*rest, result)))):
            options.append((f"{left}{operator}{right}={result}", result, rest))
    for place in key.uniforms(0, len(options)).argsort():
        step, result, rest = options[place]
        tail = _steps_to([*rest, result], result, target, key / step)
        if tail is not None:
            return [step, *tail]
    return None


# --- the choice ---------------------------------------------------------------------------------


class DataFacts(TypedDict):
    """A training record's facts about its data."""

    name: str
    seed: int
    problems: int  # trained on
    fingerprint: str  # hash of the chosen problems, in their order
    read: int  # rows that belong to the data set or subset
    duplicates: int  # spellings of a problem that was there already
    held_out: int  # of the embedded task's validation and test split
    evaluated: int  # found in an evaluation set that was given
    unusable: int  # without what the method needs, among those that were looked at
    too_long: int  # among those that were looked at


def select(
    rows: Rows,
    verifier: Verifier,
    *,
    need: Literal["solution", "answer"],
    seed: int = 0,
    size: int | None = None,
    evaluated: frozenset[str] = frozenset(),
    fits: Callable[[Example], bool] = lambda example: True,
) -> tuple[list[Example], DataFacts]:
    """Take the first `size` usable problems in the order that the seed gives them; None takes all.

    The place of a problem is a hash of (seed, its identity) and of nothing else: neither the order
    of the rows nor duplicates change the choice, and a smaller one is the beginning of a larger.
    `evaluated` holds identities that must not be trained on. Raises `DataError` for rows without a
    problem, and where fewer than `size` are left.
    """
    size = rows.size if size is None else size
    facts = DataFacts(
        name=rows.name, seed=seed, problems=0, fingerprint="", read=len(rows.problems),
        duplicates=0, held_out=0, evaluated=0, unusable=0, too_long=0,
    )  # fmt: skip
    found: dict[str, int] = {}
    for index, identity in enumerate(_identities(rows, verifier)):
        if not verifier.trainable(rows.problems[index]):
            facts["held_out"] += 1
        elif identity in evaluated:
            facts["evaluated"] += 1
        elif identity in found:
            facts["duplicates"] += 1
        else:
            found[identity] = index
    chosen: dict[str, Example] = {}
    for identity in rank(found, seed):
        if len(chosen) == size:
            break
        example = rows.example(found[identity])
        if getattr(example, need) is None:
            facts["unusable"] += 1
        elif not fits(example):
            facts["too_long"] += 1
        else:
            chosen[identity] = example
    facts["problems"], facts["fingerprint"] = len(chosen), fingerprint(chosen)
    if not chosen or size not in (None, len(chosen)):
        wanted = "at least 1" if size is None else f"{size:,}"
        raise DataError(
            f"{rows.name} leaves {len(chosen):,} problems to train on, and {wanted} are asked for: "
            f"of {facts['read']:,}, {facts['held_out']:,} are held out, {facts['evaluated']:,} are "
            f"evaluated, {facts['duplicates']:,} are duplicates, {facts['unusable']:,} have no "
            f"{need} and {facts['too_long']:,} are too long. "
            "Ask for fewer (--size), allow more tokens, or give more data."
        )
    return list(chosen.values()), facts


def rank(identities: Iterable[str], seed: int) -> list[str]:
    """Sort identities randomly, as a function of the seed and of each identity alone."""
    key = Key.root(seed) / "subsample"
    return sorted(identities, key=lambda identity: (key / identity).digest)


def fingerprint(identities: Iterable[str]) -> str:
    """Return a short hash of problems in their order."""
    return hashlib.blake2b("\n".join(identities).encode(), digest_size=8).hexdigest()


def identities(names: Iterable[str], verifier: Verifier, split: str = "test") -> frozenset[str]:
    """Return the identity of every problem of some evaluation sets (files or hub ids)."""
    opened = [open_rows(name, split=split) for name in names]
    return frozenset(found for rows in opened for found in _identities(rows, verifier))


def _identities(rows: Rows, verifier: Verifier) -> Iterator[str]:
    for number, problem in enumerate(rows.problems, start=1):
        try:
            yield verifier.identity(problem)
        except DataError as error:
            raise DataError(f"{rows.name}, row {number}: {error}") from None
