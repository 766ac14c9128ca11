"""Items that could not be answered: counted, named, and never scored as wrong answers silently."""

from __future__ import annotations

from nabla_eval.errors import ItemError
from nabla_eval.harness.arguments import Arguments
from nabla_eval.terminal import LOGGER

SHOWN = 5  # items that the closing message names


class Faults:
    """The failed items of one run."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.errors: dict[str, Exception] = {}

    def add(self, item: str, error: Exception, answered: int) -> None:
        """Note that an item failed.

        Raises `ItemError` where more have than `max_errors`: what is wrong with them is likely
        wrong with the rest.
        """
        self.errors[item] = error
        LOGGER.error("%s failed and is left out: %s: %s", item, type(error).__name__, error)
        if len(self.errors) > self.arguments.max_errors:
            raise ItemError(
                f"Stopped early: {self._words(answered)} More than max_errors="
                f"{self.arguments.max_errors} are a sign that the rest would fail too. "
                f"{self._advice()}"
            ) from error

    def close(self, answered: int) -> None:
        """Say what failed, in the end. Raises `ItemError` unless `allow_errors` is set."""
        if not self.errors:
            return
        if not self.arguments.allow_errors:
            raise ItemError(
                f"{self._words(answered)} {self._advice()} With allow_errors=true the run ends "
                "without them: they have no score, and `failed` counts them."
            ) from next(iter(self.errors.values()))
        LOGGER.warning(
            "%s They have no score in nabla_eval's tasks, where `failed` counts them; tasks of "
            "others grade them as empty answers.",
            self._words(answered),
        )

    def _words(self, answered: int) -> str:
        shown = list(self.errors.items())[:SHOWN]
        first = "; ".join(f"{item}: {type(e).__name__}: {e}" for item, e in shown)
        count = f"{len(self.errors)} of {answered} items failed"
        if len(self.errors) > SHOWN:
            return f"{count} (the first {SHOWN}: {first})."
        return f"{count}: {first}"

    def _advice(self) -> str:
        folder = self.arguments.trace_dir
        if self.arguments.dry:
            return "A dry run keeps no answers."
        if folder is None:
            return "Name a trace_dir=, and a second attempt need not answer the others again."
        return f"The others are in {folder}: the same command tries only these again."
