"""Where training problems come from: files, hub data sets with the paper's subsets, Countdown."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nabla_eval.embedded.countdown import Puzzle, moves, problems, reachable
from nabla_eval.errors import DataError, suggest
from nabla_eval.grading import extract
from nabla_eval.randomness import Key
from nabla_eval.validation import UNREADABLE, text_of

PROBLEM = ("problem", "prompt", "question")
SOLUTION = ("solution", "completion", "response")
ANSWER = ("answer", "final_answer", "gold")
COUNTDOWN = {"countdown": 3, "countdown4": 4}  # name: numbers of a problem
COUNTDOWN_SIZE = 4000

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """One problem: `solution` is what SFT imitates, `answer` what GRPO's reward compares with."""

    problem: str
    solution: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Subset:
    """A named subset of a hub data set: `size` of its usable rows, chosen by the seed."""

    path: str
    size: int
    read: Callable[[Row], Example]
    config: str | None = None
    keep: tuple[str, str] | None = None  # column and the value that it must have


def _standard(row: Row) -> Example:
    """A row with a column of each group of names; answers are taken out of solutions if need be."""
    problem, solution = _first(row, PROBLEM), _first(row, SOLUTION)
    answer = _first(row, ANSWER)
    if problem is None:
        found = ", ".join(map(repr, row)) or "nothing"
        raise DataError(f"has none of the keys {', '.join(PROBLEM)} with a text, but {found}")
    if answer is not None and ("####" in answer or "\\boxed" in answer):
        solution, answer = solution or answer, extract(answer)
    if answer is None and solution is not None:
        answer = extract(solution)
    return Example(problem, solution, answer)


def _first(row: Row, names: tuple[str, ...]) -> str | None:
    """The first of the named columns that holds a text or a number."""
    for name in names:
        value = row.get(name)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            text = str(value).strip()
            if text:
                return text
    return None


def _thought(row: Row) -> Example:
    """OpenThoughts: the model's thought and its solution, which is what its authors train on."""
    written = _written(row)
    thought = f"<think>\n{str(row['deepseek_reasoning']).strip()}\n</think>\n\n"
    return Example(written.problem, thought + (written.solution or ""), written.answer)


def _written(row: Row) -> Example:
    """OpenThoughts: the solution without the thought."""
    solution = str(row["deepseek_solution"]).strip()
    return Example(str(row["problem"]).strip(), solution, extract(solution))


_OPEN_THOUGHTS = {
    "path": "open-thoughts/OpenThoughts-114k",
    "config": "metadata",  # the configuration that says what each row is about
    "keep": ("domain", "math"),
    "size": 10_000,
}

# The sizes are the paper's; its choice of rows is not published, so ours is the seed's. Of
# Open-Thoughts the mathematics, since that is what is evaluated. Its thoughts run to thousands of
# tokens, far beyond the 1024-3072 that the paper lets a response have: hence -solutions.
SUBSETS: Mapping[str, Subset] = {
    "open-thoughts-10k": Subset(read=_thought, **_OPEN_THOUGHTS),  # type: ignore[arg-type]
    "open-thoughts-10k-solutions": Subset(read=_written, **_OPEN_THOUGHTS),  # type: ignore[arg-type]
    "numinamath-35k": Subset(path="AI-MO/NuminaMath-CoT", size=35_000, read=_standard),
}


class Rows(Protocol):
    """Rows that are read one by one: all problems first, then the chosen examples."""

    name: str
    size: int | None  # how many are meant, where a name says so

    def problems(self) -> Iterator[tuple[int, str]]:
        """Index and text of every problem that is part of the subset."""
        ...

    def example(self, index: int) -> Example:
        """One row."""
        ...


class Listed:
    """Examples in memory."""

    def __init__(self, name: str, examples: list[Example], size: int | None = None) -> None:
        self.name, self.size, self._examples = name, size, examples

    def problems(self) -> Iterator[tuple[int, str]]:
        return ((index, example.problem) for index, example in enumerate(self._examples))

    def example(self, index: int) -> Example:
        return self._examples[index]


class HubData:
    """A hub data set (or a folder that `datasets` reads), memory-mapped: only chosen rows load."""

    def __init__(self, name: str, subset: Subset, dataset: Any) -> None:
        self.name, self.size = name, subset.size or None
        self._subset, self._dataset = subset, dataset

    def problems(self) -> Iterator[tuple[int, str]]:
        columns = [name for name in PROBLEM if name in self._dataset.column_names][:1]
        if not columns:
            raise DataError(
                f"{self.name} has none of the columns {', '.join(PROBLEM)}, but "
                f"{', '.join(self._dataset.column_names)}. Write it as JSON lines with a key "
                "'problem', and 'solution' or 'answer'."
            )
        keep = self._subset.keep
        slim = self._dataset.select_columns([*columns, *([keep[0]] if keep else [])])
        for index, row in enumerate(slim):
            if keep is None or row[keep[0]] == keep[1]:
                yield index, str(row[columns[0]] or "")

    def example(self, index: int) -> Example:
        return self._subset.read(self._dataset[index])


def open_rows(name: str, *, split: str = "train", size: int | None = None, seed: int = 0) -> Rows:
    """Rows of a JSON Lines file, a named subset, a hub id or folder, or the embedded task.

    `split` is a hub data set's; size and seed choose Countdown problems, which are made here.
    Raises `DataError` where there is nothing, or something else, with its line.
    """
    if name in COUNTDOWN:
        return _countdown(name, COUNTDOWN_SIZE if size is None else size, seed)
    if name in SUBSETS:
        return HubData(name, SUBSETS[name], _load(SUBSETS[name].path, SUBSETS[name].config, split))
    path = Path(name).expanduser()
    if path.suffix in (".jsonl", ".json") or os.path.isfile(path):
        return Listed(name, list(_lines(path)))
    if "/" not in name and not os.path.isdir(path):
        known = [*COUNTDOWN, *SUBSETS]
        raise DataError(
            f"No data {name!r}: neither a file nor a name that is known here. "
            f"{suggest(name, known)} Hub ids look like AI-MO/NuminaMath-CoT."
        )
    return HubData(name, Subset(path=name, size=0, read=_standard), _load(name, None, split))


def _lines(path: Path) -> Iterator[Example]:
    """Examples of a JSON Lines file; every line must be an object with a problem."""
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


def _load(path: str, config: str | None, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(path, config, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"Cannot load the data set {path} (split {split}): {error} "
            "Check the name and the connection, or give a JSON Lines file."
        ) from error


def _countdown(name: str, size: int, seed: int) -> Rows:
    """The first `size` training problems of a seed's order, each with one of its solutions."""
    drawn = problems(size, "train", numbers=COUNTDOWN[name], seed=seed)
    examples = [Example(p.prompt, one_solution(p, seed), str(p.target)) for p in drawn]
    return Listed(name, examples)


def one_solution(problem: Puzzle, seed: int = 0) -> str:
    """A solution that is a function of (seed, problem), or `DataError` where there is none.

    Sums and products have the previous result first, else the larger number: the one way to write
    a calculation that the policy was taught (`reports/embedded/training_rows.py`).
    """
    key = Key.root(seed) / "countdown solution" / problem.canonical
    steps = _steps_to(list(problem.numbers), None, problem.target, key)
    if steps is None:
        raise DataError(f"{problem.prompt} has no solution. Leave it out.")
    return ";".join(steps)


def _steps_to(values: list[int], previous: int | None, target: int, key: Key) -> list[str] | None:
    """Steps from the available values to the target; each choice is drawn by the steps so far."""
    if len(values) == 1:
        return [] if values[0] == target else None
    options = [
        (f"{left}{operator}{right}={result}", result, rest)
        for left, operator, right, result, rest in moves(values)
        if _spelt(left, operator, right, previous)
        and target in reachable(tuple(sorted((*rest, result))))
    ]
    for place in key.uniforms(0, len(options)).argsort():
        step, result, rest = options[place]
        tail = _steps_to([*rest, result], result, target, key / step)
        if tail is not None:
            return [step, *tail]
    return None


def _spelt(left: int, operator: str, right: int, previous: int | None) -> bool:
    """Return whether this is the way to write a calculation that `one_solution` promises."""
    if operator in "-/":
        return True
    return left == previous if previous in (left, right) else left >= right
