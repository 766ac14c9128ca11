"""Countdown, the embedded task: reach the target using every given number exactly once.

A problem is written ``20,14,7=42?`` and a solution ``20-14=6;6*7=42``. Everything here is
exact: the verifier, the search that decides whether a prefix can still be completed, and the split
that keeps test problems out of training. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from nabla_eval.errors import ConfigError

Split: TypeAlias = Literal["train", "validation", "test"]
Move: TypeAlias = tuple[int, str, int, int, list[int]]  # left, operator, right, result, the rest

MAX_VALUE: Final = 99
MIN_TARGET: Final = 10
SPLIT_BUCKETS: Final = 16
OPERATORS: Final = ("+", "-", "*", "/")

INTEGER: Final = r"(?:0|[1-9][0-9]?)"
_EQUATION = re.compile(rf"({INTEGER})([-+*/])({INTEGER})=({INTEGER})")
_PROMPT = re.compile(rf"({INTEGER}(?:,{INTEGER})*)=({INTEGER})\?")


@dataclass(frozen=True)
class Puzzle:
    """One Countdown problem; ``numbers`` are in the order in which the prompt prints them."""

    numbers: tuple[int, ...]
    target: int

    @property
    def prompt(self) -> str:
        """Return the text given to the policy, for example ``20,14,7=42?``."""
        return f"{','.join(map(str, self.numbers))}={self.target}?"

    @property
    def canonical(self) -> str:
        """Return one text for every order of the numbers; the split is a hash of it."""
        return f"{','.join(map(str, sorted(self.numbers)))}={self.target}"

    @property
    def response_tokens(self) -> int:
        """Return the tokens of every well-formed solution, the closing ``<eos>`` included."""
        return 6 * (len(self.numbers) - 1)

    @classmethod
    def from_prompt(cls, prompt: str) -> Puzzle:
        """Return the puzzle of a prompt. Raises ConfigError when it is not one."""
        match = _PROMPT.fullmatch(prompt)
        if match is None:
            raise ConfigError(
                f"A Countdown prompt looks like '20,14,7=42?'; got {prompt!r}. "
                "Write integers from 0 to 99 without spaces or leading zeros."
            )
        return cls(tuple(int(number) for number in match[1].split(",")), int(match[2]))


ProblemLike: TypeAlias = Puzzle | Mapping[str, Any] | str


def as_problem(problem: ProblemLike) -> Puzzle:
    """Return the puzzle of a document of `test_problems` or a prompt."""
    if isinstance(problem, Puzzle):
        return problem
    if isinstance(problem, str):
        return Puzzle.from_prompt(problem)
    return Puzzle(tuple(problem["numbers"]), problem["target"])


def combine(left: int, operator: str, right: int) -> int | None:
    """Return the value of one step, or None if it is illegal: results are integers in 1..99."""
    match operator:
        case "+":
            value = left + right
        case "-":
            value = left - right
        case "*":
            value = left * right
        case "/" if right != 0 and left % right == 0:
            value = left // right
        case _:
            return None
    return value if 1 <= value <= MAX_VALUE else None


def verify(problem: ProblemLike, response: str) -> bool:
    """Return whether the response solves the problem; its text is untrusted and only matched.

    Every equation must be true, use numbers that are still available (given or computed before),
    and the last must use up everything and hit the target. White space around it is ignored.
    """
    problem = as_problem(problem)
    available = list(problem.numbers)
    steps = response.strip().split(";", maxsplit=len(available))
    if len(steps) != len(available) - 1:
        return False
    for step in steps:
        match = _EQUATION.fullmatch(step)
        if match is None:
            return False
        left, operator, right, result = int(match[1]), match[2], int(match[3]), int(match[4])
        for operand in (left, right):
            if operand not in available:
                return False
            available.remove(operand)
        if combine(left, operator, right) != result:
            return False
        available.append(result)
    return available == [problem.target]


# --- exact search -------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 18)
def reachable(values: tuple[int, ...]) -> frozenset[int]:
    """Return every result that some order of steps makes of all the (sorted) values."""
    if len(values) == 1:
        return frozenset(values)
    found: set[int] = set()
    for left, right in _partitions(values):
        for a in reachable(left):
            for b in reachable(right):
                outcomes = (combine(x, op, y) for x, y in ((a, b), (b, a)) for op in OPERATORS)
                found.update(value for value in outcomes if value is not None)
    return frozenset(found)


def _partitions(values: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield each split into two non-empty parts once: the last value stays on the right."""
    for mask in range(1, 1 << (len(values) - 1)):
        left = tuple(v for i, v in enumerate(values) if mask >> i & 1)
        yield left, tuple(v for i, v in enumerate(values) if not mask >> i & 1)


def solvable(problem: ProblemLike) -> bool:
    """Return whether any solution exists."""
    puzzle = as_problem(problem)
    return puzzle.target in reachable(tuple(sorted(puzzle.numbers)))


def moves(values: Sequence[int]) -> Iterator[Move]:
    """Yield every legal next step from the available values."""
    for i, left in enumerate(values):
        for j, right in enumerate(values):
            if i == j:
                continue
            rest = [value for k, value in enumerate(values) if k not in (i, j)]
            for operator in OPERATORS:
                result = combine(left, operator, right)
                if result is not None:
                    yield left, operator, right, result, rest


# --- problems and their split -------------------------------------------------------------------


def split_of(problem: ProblemLike) -> Split:
    """Return the split of a problem, by a hash of (sorted numbers, target) modulo 16."""
    bucket = _hash(as_problem(problem).canonical) % SPLIT_BUCKETS
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def problems(n: int, split: Split, *, numbers: int = 3, seed: int = 0) -> list[Puzzle]:
    """Return the first n of a fixed random order of a split's solvable problems, each once.

    Uniform over (multiset of inputs, target): sorted draws are accepted with equal probability
    whatever the number of their orders or solutions. Raises ConfigError when the split is smaller.
    """
    if numbers < 2:
        raise ConfigError(f"A problem needs at least 2 numbers; got {numbers}. Try numbers=3.")
    rng = random.Random(f"countdown/{split}/{numbers}/{seed}")
    chosen: dict[str, Puzzle] = {}
    misses = 0
    while len(chosen) < n:
        problem = _draw(rng, numbers)
        fresh = problem.canonical not in chosen and split_of(problem) == split
        if fresh and problem.target not in problem.numbers and solvable(problem):
            chosen[problem.canonical] = _shuffled(problem, seed)
            misses = 0
        else:
            misses += 1
        if misses > 200_000:
            raise ConfigError(
                f"The {split} split with {numbers} numbers has about {len(chosen)} problems; "
                f"got n={n}. Ask for fewer."
            )
    return list(chosen.values())


def test_problems(n: int, numbers: int = 3, seed: int = 0) -> list[dict[str, Any]]:
    """Return the first n test problems as documents with the keys prompt, numbers and target.

    The first 1600 of seed 0 are read from `held_out/`: drawing them takes seconds in every run.
    """
    file = Path(__file__).with_name("held_out") / f"{numbers}.txt"
    drawn: list[Puzzle] = []
    if seed == 0 and file.is_file():
        lines = file.read_text(encoding="utf-8").splitlines()
        drawn = [Puzzle.from_prompt(line) for line in lines[:n]]
    if len(drawn) < n:
        drawn = problems(n, "test", numbers=numbers, seed=seed)
    return [{"prompt": p.prompt, "numbers": list(p.numbers), "target": p.target} for p in drawn]


test_problems.__test__ = False  # type: ignore[attr-defined]  # pytest collects by name


def largest_input(numbers: int) -> int:
    """Return 20 with four numbers; 30 with fewer, where 20 would leave too few test problems."""
    return 20 if numbers >= 4 else 30


def _draw(rng: random.Random, numbers: int) -> Puzzle:
    """Draw a uniform multiset: bars of a stars-and-bars code are a uniform combination."""
    bars = sorted(rng.sample(range(largest_input(numbers) + numbers - 1), numbers))
    multiset = tuple(bar - i + 1 for i, bar in enumerate(bars))
    return Puzzle(multiset, rng.randint(MIN_TARGET, MAX_VALUE))


def _shuffled(problem: Puzzle, seed: int) -> Puzzle:
    """Return the problem in a prompt order that is a function of the problem alone."""
    rng = random.Random(_hash(f"order/{seed}/{problem.canonical}"))
    return Puzzle(tuple(rng.sample(problem.numbers, len(problem.numbers))), problem.target)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
