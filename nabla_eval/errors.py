"""One base for every error that nabla_eval raises on purpose.

Each message says what went wrong, what was got, and what to try. The children also inherit the
fitting built-in, so that code which knows nothing of nabla_eval can still catch them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class NablaError(Exception):
    """Base of nabla_eval's own errors; the command line prints it without a traceback."""


class ConfigError(NablaError, ValueError):
    """An option is unknown, out of range, or contradicts another one."""


class ModelError(NablaError, ValueError):
    """A checkpoint cannot serve as the policy or the reward model."""


class VocabularyError(ModelError):
    """Policy and reward model disagree about the tokens."""


class ContextError(NablaError, ValueError):
    """A prompt and the tokens asked for do not fit the model's context."""


class RewardError(NablaError, ArithmeticError):
    """The reward model answered with something that is not a finite number."""


class PolicyError(NablaError, ArithmeticError):
    """The policy's logits, or what a gradient made of them, are no distribution over tokens."""


class ServerError(NablaError, ConnectionError):
    """A model server is away, refuses a request, or answers with something else."""


class ServerAwayError(ServerError):
    """A model server did not answer at any attempt: other requests would wait in vain too."""


class DataError(NablaError, ValueError):
    """A data set, a trace or a results folder is missing, torn, or not what it says."""


class ItemError(NablaError, RuntimeError):
    """Some items of a run could not be answered; the others are."""


class DependencyError(NablaError, ImportError):
    """An optional package is needed for what was asked and is not installed."""


class OutOfCalls(NablaError):  # noqa: N818 - news for a method, not a mistake
    """Thrown into a method at the `yield` whose requests one of its budgets no longer covers.

    `results` are those of the first requests of the list, which were still covered; the last may
    be a response that was cut short. A method returns its best answer so far, with
    `ended` set to the name of the `budget`.
    """

    def __init__(self, results: Sequence[Any], budget: str = "max_calls") -> None:
        super().__init__(f"{budget} are used up. A method must catch this and return an Outcome.")
        self.results, self.budget = tuple(results), budget


@dataclass(frozen=True)
class Fault:
    """In place of a request's result: why it could not be answered. Its problem fails alone."""

    error: Exception


def suggest(unknown: str, known: Iterable[str]) -> str:
    """Sentence that offers the closest known names, or lists them all when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(unknown, known, n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Known names: {', '.join(known)}."
