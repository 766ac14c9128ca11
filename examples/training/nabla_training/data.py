"""Which problems are trained on: none that is evaluated, none twice, a seeded part of the rest.

They come from JSON Lines files, hub data sets with the paper's subsets, and Countdown.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
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


# --- rows of files and data sets ----------------------------------------------------------------


class Rows:
    """Examples in memory. `size` is how many are meant, where a name says so."""

    def __init__(self, name: str, examples: Any, size: int | None = None) -> None:
        self.name, self.size, self.examples = name, size, examples

    def problems(self) -> Iterator[tuple[int, str]]:
        """Yield index and text of every problem, before any example is asked for."""
        return ((index, example.problem) for index, example in enumerate(self.examples))

    def example(self, index: int) -> Example:
        """Return one row."""
        found: Example = self.examples[index]
        return found


@dataclass(frozen=True)
class Subset:
    """A named subset of a hub data set: `size` of its usable rows, chosen by the seed."""

    path: str
    read: Callable[[Mapping[str, Any]], Example]
    size: int | None = None
    config: str | None = None
    keep: tuple[str, str] | None = None  # column and the value that it must have


class HubRows(Rows):
    """A hub data set (or a folder that `datasets` reads), memory-mapped: only chosen rows load."""

    def __init__(self, name: str, subset: Subset, split: str) -> None:
        import datasets

        try:
            rows = datasets.load_dataset(subset.path, subset.config, split=split)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(
                f"Cannot load the data set {subset.path} (split {split}): {error} "
                "Check the name and the connection, or give a JSON Lines file."
            ) from error
        super().__init__(name, rows, subset.size)
        self.subset = subset

    def problems(self) -> Iterator[tuple[int, str]]:
        """Yield the index and the problem of the rows that belong to the subset.

        Raises `DataError` where no column has a name that problems go by.
        """
        named = self.examples.column_names
        column = next((name for name in PROBLEM if name in named), None)
        if column is None:
            raise DataError(
                f"{self.name} has none of the columns {', '.join(PROBLEM)}, but "
                f"{', '.join(named)}. Write it as JSON lines with a key 'problem', and 'solution' "
                "or 'answer'."
            )
        kept, value = self.subset.keep or (column, None)
        for index, row in enumerate(self.examples.select_columns(list({column, kept}))):
            if value is None or row[kept] == value:
                yield index, str(row[column] or "")

    def example(self, index: int) -> Example:
        return self.subset.read(self.examples[index])


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
    values = (row.get(name) for name in names)
    texts = (
        str(value).strip()
        for value in values
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
    )
    return next(filter(None, texts), None)


def _without_thought(row: Mapping[str, Any]) -> Example:
    solution = str(row["deepseek_solution"]).strip()
    return Example(str(row["problem"]).strip(), solution, extract(solution))


def _with_thought(row: Mapping[str, Any]) -> Example:
    """Put the model's thought before its solution, which is what OpenThoughts' authors train on."""
    short = _without_thought(row)
    thought = f"<think>\n{str(row['deepseek_reasoning']).strip()}\n</think>\n\n"
    return Example(short.problem, f"{thought}{short.solution}", short.answer)


_OPEN_THOUGHTS: dict[str, Any] = {
    "path": "open-thoughts/OpenThoughts-114k",
    "config": "metadata",  # the configuration that says what each row is about
    "keep": ("domain", "math"),
    "size": 10_000,
}

# The sizes are the paper's; its choice of rows is not published, so ours is the seed's. Of
# Open-Thoughts the mathematics, since that is what is evaluated. Its thoughts run to thousands of
# tokens, far beyond the 1024-3072 that the paper lets a response have: hence -solutions.
SUBSETS: Mapping[str, Subset] = {
    "open-thoughts-10k": Subset(read=_with_thought, **_OPEN_THOUGHTS),
    "open-thoughts-10k-solutions": Subset(read=_without_thought, **_OPEN_THOUGHTS),
    "numinamath-35k": Subset(path="AI-MO/NuminaMath-CoT", size=35_000, read=_standard),
}


def open_rows(name: str, *, split: str = "train", size: int | None = None, seed: int = 0) -> Rows:
    """Open a JSON Lines file, a named subset, a hub id or folder, or the embedded task.

    `split` is a hub data set's; size and seed choose Countdown problems, which are made here.
    Raises `DataError` where there is nothing, or something else, with its line.
    """
    if name in COUNTDOWN:
        count = COUNTDOWN_SIZE if size is None else size
        drawn = problems(count, "train", numbers=COUNTDOWN[name], seed=seed)
        return Rows(name, [Example(p.prompt, one_solution(p, seed), str(p.target)) for p in drawn])
    if name in SUBSETS:
        return HubRows(name, SUBSETS[name], split)
    path = Path(name).expanduser()
    if path.suffix in (".jsonl", ".json") or os.path.isfile(path):
        return Rows(name, list(_lines(path)))
    if "/" not in name and not os.path.isdir(path):
        raise DataError(
            f"No data {name!r}: neither a file nor a name that is known here. "
            f"{suggest(name, [*COUNTDOWN, *SUBSETS])} Hub ids look like AI-MO/NuminaMath-CoT."
        )
    return HubRows(name, Subset(path=name, read=_standard), split)


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
    count: Counter[str] = Counter()
    found: dict[str, int] = {}
    for index, problem in rows.problems():
        identity = _identity(rows, index, problem, verifier)
        count["read"] += 1
        if not verifier.trainable(problem):
            count["held_out"] += 1
        elif identity in evaluated:
            count["evaluated"] += 1
        elif identity in found:
            count["duplicates"] += 1
        else:
            found[identity] = index
    chosen: dict[str, Example] = {}
    for identity in rank(found, seed):
        if len(chosen) == size:
            break
        example = rows.example(found[identity])
        if getattr(example, need) is None:
            count["unusable"] += 1
        elif not fits(example):
            count["too_long"] += 1
        else:
            chosen[identity] = example
    facts = DataFacts(
        name=rows.name,
        seed=seed,
        problems=len(chosen),
        fingerprint=fingerprint(chosen),
        read=count["read"],
        duplicates=count["duplicates"],
        held_out=count["held_out"],
        evaluated=count["evaluated"],
        unusable=count["unusable"],
        too_long=count["too_long"],
    )
    if not chosen or size not in (None, len(chosen)):
        wanted = "at least 1" if size is None else f"{size:,}"
        raise DataError(
            f"{rows.name} leaves {len(chosen):,} problems to train on, and {wanted} are asked for: "
            f"of {count['read']:,}, {count['held_out']:,} are held out, {count['evaluated']:,} are "
            f"evaluated, {count['duplicates']:,} are duplicates, {count['unusable']:,} have no "
            f"{need} and {count['too_long']:,} are too long. "
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
    return frozenset(
        _identity(rows, index, text, verifier) for rows in opened for index, text in rows.problems()
    )


def _identity(rows: Rows, index: int, problem: str, verifier: Verifier) -> str:
    try:
        return verifier.identity(problem)
    except DataError as error:
        raise DataError(f"{rows.name}, row {index + 1}: {error}") from None
