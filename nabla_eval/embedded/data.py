"""Training rows for the policy: random solutions of training problems, drawn in bulk with numpy."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nabla_eval.embedded.countdown import (
    MAX_VALUE,
    MIN_TARGET,
    OPERATORS,
    Problem,
    largest_input,
    split_of,
)
from nabla_eval.embedded.tokenizer import EOS_ID, IDS

Integers = NDArray[np.int64]

_IGNORED: Final = -100
_OPERATOR_IDS: Final = np.array([IDS[operator] for operator in OPERATORS])


def random_walks(
    count: int, numbers: int, rng: np.random.Generator
) -> tuple[Integers, Integers, Integers]:
    """Random legal calculations: inputs [N, n], result [N], response tokens [N, 6(n-1)].

    Each step picks an ordered pair and then one of the operators that are legal for it; walks that
    get stuck are dropped, so N is at most `count`.
    """
    inputs = rng.integers(1, largest_input(numbers) + 1, size=(count, numbers))
    available, legal = inputs.copy(), np.ones(count, dtype=bool)
    columns: list[Integers] = []
    for left_over in range(numbers, 1, -1):
        order = np.argsort(rng.random((count, left_over)), axis=1)
        available = np.take_along_axis(available, order, axis=1)
        a, b = available[:, 0], available[:, 1]
        values, valid = _outcomes(a, b)
        choice = np.argmax(np.where(valid, rng.random(valid.shape), -1.0), axis=1)
        legal &= valid.any(axis=1)
        result = np.take_along_axis(values, choice[:, None], axis=1)[:, 0]
        closing = IDS[";"] if left_over > 2 else EOS_ID
        columns += [a, _OPERATOR_IDS[choice], b]
        columns += [np.full(count, IDS["="]), result, np.full(count, closing)]
        available = np.concatenate([available[:, 2:], result[:, None]], axis=1)
    return inputs[legal], available[legal, 0], np.stack(columns, axis=1)[legal]


def _outcomes(a: Integers, b: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Results [N, 4] of the four operators and whether each is allowed; b may be out of range
    only in walks that are already stuck."""
    safe = np.maximum(b, 1)
    values = np.stack([a + b, a - b, a * b, a // safe], axis=1)
    valid = (values >= 1) & (values <= MAX_VALUE)
    valid[:, 3] &= (a % safe == 0) & (b >= 1)
    return values, valid


class TrainingRows:
    """Solutions of training problems; `batch` draws rows with their loss labels.

    Rows are weighted by 1 / (occurrences of their problem), so that problems with many solutions
    are not favoured and the distribution matches that of the test problems.
    """

    def __init__(
        self, *, walks: int, numbers: int, mismatched: float, rng: np.random.Generator
    ) -> None:
        inputs, target, response = random_walks(walks, numbers, rng)
        usable = (target >= MIN_TARGET) & (inputs != target[:, None]).all(axis=1)
        inputs, target, response = inputs[usable], target[usable], response[usable]
        problem, occurrences, keys = _training_problems(inputs, target)
        self._keys = keys[occurrences > 0]
        self.problems = len(self._keys)
        weight = np.where(occurrences > 0, 1.0 / np.maximum(occurrences, 1), 0.0)[problem]
        self._cumulative = np.cumsum(weight)
        self._inputs, self._target, self._response = inputs, target, response
        self._mismatched, self._rng = mismatched, rng

    def canonical_problems(self) -> set[str]:
        """Every problem that a row can belong to, in the form of `Problem.canonical`."""
        rows = self._keys.tolist()
        return {Problem(tuple(row[:-1]), row[-1]).canonical for row in rows}

    def batch(self, size: int) -> tuple[Integers, Integers]:
        """Token ids [B, L] and labels [B, L], -100 where there is no loss.

        A share of the rows carries another row's target, with loss only on ``=``, the result and
        the closing token: so the policy calculates correctly even where it misses the target.
        """
        point = self._rng.random(size) * self._cumulative[-1]
        rows = np.searchsorted(self._cumulative, point, side="right")
        target = self._target[rows]
        other = self._rng.permutation(target)
        swapped = self._rng.random(size) < self._mismatched
        swapped &= _in_training(self._inputs[rows], other, where=swapped)
        prompt = _prompt_ids(self._inputs[rows], np.where(swapped, other, target))
        response = self._response[rows]
        forced = np.arange(response.shape[1]) % 6 >= 3
        labels = np.where(swapped[:, None] & ~forced, _IGNORED, response)
        ids = np.concatenate([prompt, response], axis=1)
        return ids, np.concatenate([np.full_like(prompt, _IGNORED), labels], axis=1)


def _training_problems(inputs: Integers, target: Integers) -> tuple[Integers, Integers, Integers]:
    """Each row's problem index and, per problem, its rows (0 if not for training) and its key."""
    keys = np.concatenate([np.sort(inputs, axis=1), target[:, None]], axis=1)
    base = (MAX_VALUE + 1) ** np.arange(keys.shape[1])
    _, first, problem, occurrences = np.unique(
        keys @ base, return_index=True, return_inverse=True, return_counts=True
    )
    unique = keys[first]
    allowed = _in_training(unique[:, :-1], unique[:, -1], where=np.ones(len(unique), dtype=bool))
    return problem, np.where(allowed, occurrences, 0), unique


def _in_training(
    inputs: Integers, target: Integers, *, where: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether each problem [B] belongs to the training split; False outside `where`.

    Asked of mismatched rows too: not even the prompt of a test problem is ever seen in training.
    """
    chosen = np.zeros(len(target), dtype=bool)
    for row in np.flatnonzero(where):
        problem = Problem(tuple(inputs[row].tolist()), int(target[row]))
        chosen[row] = split_of(problem) == "train"
    return chosen


def _prompt_ids(inputs: Integers, target: Integers) -> Integers:
    """Prompts ``a,b,c,d=t?`` as ids [B, 2 numbers + 2]."""
    rows, numbers = inputs.shape
    ids = np.full((rows, 2 * numbers + 2), IDS[","])
    ids[:, 0 : 2 * numbers : 2] = inputs
    ids[:, -3], ids[:, -2], ids[:, -1] = IDS["="], target, IDS["?"]
    return ids
