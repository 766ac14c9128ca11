"""Problem sets from the hub, through the `datasets` library and its cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nabla_eval.errors import DataError
from nabla_eval.harness.problems.sets import ProblemSet
from nabla_eval.harness.problems.store import VARIABLE, Copy, item
from nabla_eval.models.hub import hub_answers


def from_hub(problems: ProblemSet) -> Copy:
    """Return the set's items from its hub data set, or from what the cache holds of it.

    Raises `DataError` where it is neither within reach nor in the cache.
    """
    import datasets

    hub = problems.hub
    try:
        with _no_waiting():
            rows = datasets.load_dataset(hub.path, hub.name, split=hub.split, revision=hub.revision)
    except Exception as error:  # of huggingface_hub, requests, httpx, fsspec, pyarrow, ...
        raise DataError(_explain(problems, error)) from error
    items = tuple(
        item(problems, row, f"{hub}, row {number}", hub) for number, row in enumerate(rows, 1)
    )
    return Copy(problems, items, str(hub), problems.items)


def _explain(problems: ProblemSet, error: Exception) -> str:
    what = f"{problems.title} ({problems.hub}) cannot be had from the hub"
    if hub_answers():
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(". ")
        return f"{what}: {detail}. Try again later, or give a folder of problems ({VARIABLE}=DIR)."
    return (
        f"{what}: there is no network, and it is not in the cache. Run `nabla-eval data fetch DIR` "
        f"where there is one, copy DIR here, and set {VARIABLE}=DIR (or pass "
        """--metadata '{"data_dir": "DIR"}' to lm_eval)."""
    )


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Without network, look into the cache only; else the client retries for half a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
