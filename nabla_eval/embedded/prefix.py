"""The exact prefix oracle: can a partly written response still be completed to a solution?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from nabla_eval.embedded.countdown import (
    INTEGER,
    Move,
    ProblemLike,
    as_problem,
    combine,
    moves,
    reachable,
    solvable,
)

EOS: Final = "<eos>"
_NUMBER = re.compile(INTEGER)
_TOKEN = re.compile(rf"{EOS}|{INTEGER}|.", re.DOTALL)


def tokenise(text: str) -> list[str]:
    """Split a response as the tokenizer does: integers 0..99, symbols, ``<eos>``."""
    return _TOKEN.findall(text)


class PrefixOracle:
    """Reads a response token by token and knows whether the target can still be reached.

    Integers are atomic, as in the vocabulary: after ``1`` the number is 1, not the start of 14.
    A dead prefix stays dead. ``<eos>`` is alive only after a complete solution.
    """

    def __init__(self, problem: ProblemLike) -> None:
        problem = as_problem(problem)
        self._target = problem.target
        self._available = list(problem.numbers)
        self._equation: list[str] = []
        self.finished = False
        self.alive = solvable(problem)

    def read(self, token: str) -> bool:
        """Take one more token and say whether the prefix that ends with it is alive."""
        self.alive = self.alive and not self.finished and self._admits(token)
        return self.alive

    def _admits(self, token: str) -> bool:
        slot = len(self._equation)
        if slot == 5:
            return self._close(token)
        if slot in (0, 2, 4) and not _NUMBER.fullmatch(token):
            return False
        self._equation.append(token)
        if slot == 3:
            return token == "="
        if slot == 4:
            return self._result() == int(token)
        return any(self._fits(move) for move in moves(self._available))

    def _fits(self, move: Move) -> bool:
        left, operator, right, result, rest = move
        written = [str(left), operator, str(right)][: len(self._equation)]
        if written != self._equation:
            return False
        return self._target in reachable(tuple(sorted((*rest, result))))

    def _result(self) -> int | None:
        left, operator, right = self._equation[:3]
        return combine(int(left), operator, int(right))

    def _close(self, token: str) -> bool:
        left, right, result = (int(self._equation[slot]) for slot in (0, 2, 4))
        self._available.remove(left)
        self._available.remove(right)
        self._available.append(result)
        self._equation = []
        if len(self._available) > 1:
            return token == ";"
        self.finished = token == EOS
        return self.finished


def prefix_labels(problem: ProblemLike, tokens: Sequence[str]) -> list[bool]:
    """For each prefix ``tokens[:1] .. tokens[:]``, whether the target is still reachable."""
    oracle = PrefixOracle(problem)
    return [oracle.read(token) for token in tokens]


def prefix_reachable(problem: ProblemLike, prefix: str) -> bool:
    """Whether some continuation of the prefix (possibly inside an equation) is a solution."""
    labels = prefix_labels(problem, tokenise(prefix))
    return labels[-1] if labels else solvable(problem)
