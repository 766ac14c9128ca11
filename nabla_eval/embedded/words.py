"""Word problems, the second embedded task: 2 to 6 dependent steps, told in English and made here.

A problem is a story of facts, some of them beside the point, and a question; the answer is
worked out in a sentence a step and ends in ``\\boxed{}``. Everything is exact: what each step must
say, the first character of a response that is wrong, and the split that keeps test problems out of
training. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

Split: TypeAlias = Literal["train", "validation", "test"]

STEPS: Final = (2, 6)
LARGEST: Final = 600
SPLIT_BUCKETS: Final = 16
OPERATORS: Final = ("+", "-", "×", "÷")

_NAMES: Final = (
    "Ada", "Ali", "Amy", "Ana", "Ben", "Eva", "Ian", "Ida", "Ivy", "Jack", "Kim", "Leo", "Lily",
    "Lucy", "Max", "Mia", "Nina", "Noah", "Omar", "Paul", "Rosa", "Ruth", "Sam", "Tara", "Tom",
    "Yuki",
)  # fmt: skip
_OBJECTS: Final = (
    "apples", "books", "buttons", "cards", "coins", "cookies", "eggs", "flowers", "lemons",
    "marbles", "muffins", "oranges", "pears", "pencils", "plums", "shells", "stamps",
    "stickers", "stones", "tickets",
)  # fmt: skip
_FRACTIONS: Final = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}
_MULTIPLES: Final = {2: "twice"}

_RUN = re.compile(r"\d(?:[\d +\-×÷=]*\d)?")
_BOX: Final = "\\boxed{"
_ANSWER = re.compile(r"\\boxed\{(\d{1,6})\}")


@dataclass(frozen=True)
class Ref:
    """The result of an earlier step, by its index."""

    step: int


@dataclass(frozen=True)
class Calculation:
    """One calculation: `left` and `right` are numbers or results; `owner` has what comes out."""

    operator: str
    left: int | Ref
    right: int | Ref
    owner: str
    kind: str  # which fact of the story it comes from
    unit: str  # what the result counts

    @property
    def needs(self) -> tuple[int, ...]:
        """Return the indices of the steps whose results it uses."""
        return tuple(side.step for side in (self.left, self.right) if isinstance(side, Ref))


@dataclass(frozen=True)
class WordProblem:
    """A story with a question. `steps` are all that the answer needs, each after what it needs."""

    facts: tuple[str, ...]
    question: str
    steps: tuple[Calculation, ...]

    @property
    def prompt(self) -> str:
        """Return the text given to the policy."""
        return " ".join((*self.facts, self.question))

    @cached_property
    def results(self) -> tuple[int, ...]:
        """Return the result of every step."""
        values: list[int] = []
        for step in self.steps:
            value = combine(of(step.left, values), step.operator, of(step.right, values))
            assert value is not None, step
            values.append(value)
        return tuple(values)

    @property
    def target(self) -> int:
        """Return the answer."""
        return self.results[-1]

    @property
    def canonical(self) -> str:
        """Return structure and numbers without names, objects, phrases and distractors.

        The split is a hash of it, so no test problem is a training problem that is told otherwise.
        """

        def side(of: int | Ref) -> str:
            return f"#{of.step}" if isinstance(of, Ref) else str(of)

        return ";".join(f"{side(s.left)}{s.operator}{side(s.right)}" for s in self.steps)

    @cached_property
    def equations(self) -> tuple[str, ...]:
        """Return every equation that a right response may write, `a + b` and `b + a` alike."""
        values = self.results
        asked = ((s.operator, of(s.left, values), of(s.right, values)) for s in self.steps)
        return tuple(dict.fromkeys(equation for step in asked for equation in _spelled(*step)))

    @property
    def document(self) -> dict[str, Any]:
        """Return the problem as a document of a task."""
        return {"prompt": self.prompt, "target": self.target, "equations": list(self.equations)}


ProblemLike: TypeAlias = WordProblem | Mapping[str, Any]


def of(side: int | Ref, results: Sequence[int]) -> int:
    """Return the number that a side of a step stands for."""
    return results[side.step] if isinstance(side, Ref) else side


def combine(left: int, operator: str, right: int) -> int | None:
    """Return the value of one step, or None if it is illegal: results are integers in 1..600."""
    match operator:
        case "+":
            value = left + right
        case "-":
            value = left - right
        case "×":
            value = left * right
        case "÷" if right != 0 and left % right == 0:
            value = left // right
        case _:
            return None
    return value if 1 <= value <= LARGEST else None


def _spelled(operator: str, left: int, right: int) -> Iterator[str]:
    result = combine(left, operator, right)
    yield f"{left} {operator} {right} = {result}"
    if operator in "+×":
        yield f"{right} {operator} {left} = {result}"


# --- checking -----------------------------------------------------------------------------------


def verify(problem: ProblemLike, response: str) -> bool:
    """Return whether the last box of the response holds the answer; its text is untrusted data."""
    target = problem.target if isinstance(problem, WordProblem) else problem["target"]
    boxes = _ANSWER.findall(response)
    return bool(boxes) and int(boxes[-1]) == int(target)


def first_error(problem: WordProblem, response: str) -> int | None:
    """Return the index of the first wrong character, or None where all that is written is right.

    Wrong is an equation that is not one of the problem's, from the first character at which none
    of them goes on like it, and a box that does not hold the answer. Words are not judged. A
    response that breaks off is judged by what it says.
    """
    box = response.find(_BOX)
    end = len(response) if box < 0 else box
    for run in _RUN.finditer(response, 0, end):
        if run[0] in problem.equations:
            continue
        common = max(_common(run[0], equation) for equation in problem.equations)
        if common < len(run[0]) or run.end() < len(response):
            return run.start() + common
    if box >= 0:
        expected = f"{problem.target}}}"
        written = response[box + len(_BOX) :][: len(expected)]
        common = _common(written, expected)
        if common < len(written):
            return box + len(_BOX) + common
    return None


def _common(a: str, b: str) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


# --- problems and their split -------------------------------------------------------------------


def split_of(problem: WordProblem) -> Split:
    """Return the split of a problem, by a hash of its structure and numbers modulo 16."""
    digest = hashlib.blake2b(problem.canonical.encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % SPLIT_BUCKETS
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def stream(split: Split, *, seed: int = 0, part: int = 0) -> Iterator[WordProblem]:
    """Yield problems of a split without end, the same for the same seed and part."""
    rng = random.Random(f"words/{split}/{seed}/{part}")
    while True:
        problem = draw(rng)
        if split_of(problem) == split:
            yield problem


def problems(n: int, split: Split, *, seed: int = 0) -> list[WordProblem]:
    """Return the first n problems of a split, each structure with its numbers once."""
    chosen: dict[str, WordProblem] = {}
    for problem in stream(split, seed=seed):
        if len(chosen) >= n:
            break
        chosen.setdefault(problem.canonical, problem)
    return list(chosen.values())


def test_problems(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return the first n test problems as documents with the keys prompt, target and equations."""
    return [problem.document for problem in problems(n, "test", seed=seed)]


test_problems.__test__ = False  # type: ignore[attr-defined]  # pytest collects by name


def draw(rng: random.Random) -> WordProblem:
    """Return a random problem: uniform in its number of steps, whatever its split."""
    count = rng.randint(*STEPS)
    while True:
        story = _Story(rng, count)
        if (problem := story.tell()) is not None:
            return problem


# --- the story ----------------------------------------------------------------------------------


@dataclass
class _Story:
    """Tells one problem fact by fact; `current` is what the next fact goes on from."""

    rng: random.Random
    count: int
    facts: list[str] = field(default_factory=list)
    steps: list[Calculation] = field(default_factory=list)
    results: list[int] = field(default_factory=list)

    def tell(self) -> WordProblem | None:
        """Return the problem, or None where the numbers got stuck."""
        rng = self.rng
        self.names = rng.sample(_NAMES, len(_NAMES))
        self.thing, self.other = rng.sample(_OBJECTS, 2)
        self.owner, self.current, self.changed = self._given()
        while len(self.steps) < self.count:
            left = self.count - len(self.steps)
            moves = self._moves(left)
            if not any(move() for move in rng.sample(moves, len(moves))):
                return None
        question = self._question()
        self._distract()
        return WordProblem(tuple(self.facts), question, tuple(self.steps))

    def _moves(self, left: int) -> list[Callable[[], bool]]:
        moves = [self._compared] * 2 + [self._scaled] * 3 + [self._event] * 2 + [self._joined]
        if left >= 2:
            moves.append(self._branch)
        if left == 1 and self.steps:
            moves += [self._packed, self._sold]
        return moves

    def _given(self) -> tuple[str, int | Ref, bool]:
        owner, number = self.names.pop(), self.rng.randint(4, 90)
        say = ("{a} has {n} {t}.", "{a} has {n} {t}.", "{a} starts with {n} {t}.")
        self._fact(say, a=owner, n=number)
        return owner, number, False

    def _fact(self, ways: Sequence[str], **slots: Any) -> None:
        self.facts.append(self.rng.choice(ways).format(t=self.thing, **slots))

    def _step(self, operator: str, right: int | Ref, owner: str, kind: str, unit: str = "") -> bool:
        """Add a step from `current`; False where its result is out of range."""
        value = combine(self._value(self.current), operator, self._value(right))
        if value is None or (operator == "÷" and value < 2):
            return False
        self.steps.append(
            Calculation(operator, self.current, right, owner, kind, unit or self.thing)
        )
        self.results.append(value)
        self.changed = owner == self.owner
        self.owner, self.current = owner, Ref(len(self.steps) - 1)
        return True

    def _value(self, side: int | Ref) -> int:
        return of(side, self.results)

    def _than(self) -> str:
        """Return the owner as a comparison names it: after an event, what is there by now."""
        return f"{self.owner} has now" if self.changed else self.owner

    def _compared(self) -> bool:
        more, k, than = self.rng.random() < 0.5, self.rng.randint(3, 90), self._than()
        name = self.names[-1]
        if not self._step("+" if more else "-", k, name, "more" if more else "fewer"):
            return False
        self.names.pop()
        word = "more" if more else "fewer"
        self._fact((f"{{a}} has {{k}} {word} {{t}} than {{b}}.",), a=name, k=k, b=than)
        return True

    def _scaled(self) -> bool:
        value, than, name = self._value(self.current), self._than(), self.names[-1]
        divisors = [k for k in _FRACTIONS if value % k == 0 and value // k >= 3]
        if divisors and self.rng.random() < 0.6:
            k = self.rng.choice(divisors)
            self._step("÷", k, name, "part")
            size = _FRACTIONS[k]
        else:
            k = self.rng.randint(2, 9)
            if value > 99 or not self._step("×", k, name, "times"):
                return False
            size = _MULTIPLES.get(k, f"{k} times")
        self.names.pop()
        self._fact(("{a} has {s} as many {t} as {b}.",), a=name, s=size, b=than)
        return True

    def _event(self) -> bool:
        gain, k = self.rng.random() < 0.5, self.rng.randint(3, 90)
        owner = self.owner
        if not self._step("+" if gain else "-", k, owner, "gain" if gain else "loss"):
            return False
        gains = ("buys {k} more {t}", "finds {k} {t}", "is given {k} {t}")
        losses = ("gives away {k} {t}", "loses {k} {t}", "sells {k} {t}")
        when = self.rng.choice(("Then {a} ", "Later, {a} ", "After that, {a} "))
        self._fact([f"{when}{way}." for way in (gains if gain else losses)], a=owner, k=k)
        return True

    def _joined(self) -> bool:
        """Add up with a number that someone else is given."""
        side, number = self.names[-1], self.rng.randint(4, 90)
        name, owner, than = self.names[-2], self.owner, self._than()
        if not self._step("+", number, name, "together"):
            return False
        del self.names[-2:]
        self._fact(("{a} has {n} {t}.",), a=side, n=number)
        self._together(name, side, than, owner)
        return True

    def _together(self, name: str, side: str, than: str, owner: str) -> None:
        two = [owner if than == owner else f"{owner} now", side]
        ways = ("{a} has as many {t} as {b} and {c} together.",)
        self._fact(ways, a=name, b=two[0], c=two[1])

    def _branch(self) -> bool:
        """Add up with a result of its own, which does not depend on what came before."""
        side, number, half, k = self.names[-1], self.rng.randint(4, 60), self.names[-2], 0
        name, owner, than, before = self.names[-3], self.owner, self._than(), self.current
        changed = self.changed
        self.current, self.owner = number, side
        k = self.rng.randint(2, 6)
        operator = self.rng.choice("+-×")
        k = k if operator == "×" else self.rng.randint(3, 60)
        kind = {"+": "more", "-": "fewer", "×": "times"}[operator]
        done = self._step(operator, k, half, kind)
        self.current, self.owner, self.changed, result = before, owner, changed, self.current
        if not done:
            return False
        if not self._step("+", result, name, "together"):
            del self.steps[-1], self.results[-1]
            return False
        del self.names[-3:]
        self._fact(("{a} has {n} {t}.",), a=side, n=number)
        size = _MULTIPLES.get(k, f"{k} times")
        says = {"+": "{k} more {t} than", "-": "{k} fewer {t} than", "×": "{s} as many {t} as"}
        self._fact((f"{{a}} has {says[operator]} {{b}}.",), a=half, b=side, k=k, s=size)
        self._together(name, half, than, owner)
        return True

    def _packed(self) -> bool:
        value = self._value(self.current)
        boxes = [k for k in range(2, 10) if value % k == 0 and value // k >= 3]
        if not boxes:
            return False
        k, owner = self.rng.choice(boxes), self.owner
        box = self.rng.choice(("box", "bag", "basket"))
        plural = {"box": "boxes"}.get(box, f"{box}s")
        self._step("÷", k, f"each {box}", "packed")
        way = "{a} puts all these {t} into {k} {p}, the same number in each."
        self._fact((way,), a=owner, k=k, p=plural)
        return True

    def _sold(self) -> bool:
        k, owner = self.rng.randint(2, 9), self.owner
        if self._value(self.current) > 99 or not self._step("×", k, owner, "sold", "dollars"):
            return False
        self._fact(("{a} sells all these {t} for {k} dollars each.",), a=owner, k=k)
        return True

    def _question(self) -> str:
        last = self.steps[-1]
        if last.kind == "packed":
            ways: Sequence[str] = ("How many {t} are in {a}?", "How many {t} go into {a}?")
        elif last.kind == "sold":
            ways = ("How many dollars does {a} get?", "How many dollars does {a} earn?")
        elif last.kind in ("gain", "loss"):
            ways = ("How many {t} does {a} have now?", "How many {t} does {a} have in the end?")
        else:
            ways = ("How many {t} does {a} have?", "Find how many {t} {a} has.")
        return self.rng.choice(ways).format(t=self.thing, a=last.owner)

    def _distract(self) -> None:
        """Put 0 to 2 facts beside the point anywhere behind the first."""
        for _ in range(self.rng.choice((0, 1, 1, 2))):
            k, name = self.rng.randint(3, 90), self.names.pop()
            first = self.facts[0].split()[0]
            ways = (
                f"{name} has {k} {self.other}.",
                f"{first} also has {k} {self.other}.",
                f"{name} is {k} years old.",
                f"{name} has {k} {self.thing}.",
            )
            place = self.rng.randint(1, len(self.facts))
            self.facts.insert(place, self.rng.choice(ways))
