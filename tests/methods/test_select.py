"""Which positions are worth refining: gates of the policy, and the first error's neighbourhood."""

from __future__ import annotations

import pytest

from nabla_eval.config import Selection
from nabla_eval.errors import ModelError
from nabla_eval.methods.select import first_error, uncertain, worthwhile
from nabla_eval.randomness import Key
from nabla_eval.requests import Judgement, Trajectory

SCORES = Judgement(-2.0, (1.0, 0.5, -1.0, 3.0))


def response(scored: int = 4, entropy: tuple[float, ...] = (1, 0, 1, 1, 1)) -> Trajectory:
    """Five tokens, of which the reward model sees the first `scored`."""
    tokens = (5, 6, 7, 8, 0)
    top = (0.5, 0.99, 0.5, 0.5, 0.5)
    return Trajectory(tokens, "", scored, "eos", tokens, entropy, top, Key.root(0))


@pytest.mark.parametrize(
    ("below", "window", "wanted"),
    [
        (None, 3, [0, 2, 3, 4]),
        (0.0, 3, [0, 2]),  # the error is at 2
        (0.0, 1, [2]),
        (0.7, 3, [0]),  # at 1, where the policy is sure
        (-1.5, 2, [3, 4]),  # only the reward, which is the end's score, is bad
        (-9.0, 2, [3, 4]),  # nothing is: the end of the response
        (2.0, 3, [0]),
    ],
)
def test_positions_up_to_the_first_error(
    below: float | None, window: int, wanted: list[int]
) -> None:
    selection = Selection(error_below=below, error_window=window)
    assert worthwhile(response(), SCORES, selection) == wanted


def test_sure_positions_are_not_counted_in_the_window() -> None:
    selection = Selection(uncertainty="top_probability", error_below=0.0, error_window=2)
    assert uncertain(response(), selection) == [0, 2, 3, 4]
    assert worthwhile(response(), SCORES, selection) == [0, 2]


def test_the_first_error_of_a_response_that_was_cut() -> None:
    whole = response(scored=5)
    assert first_error(whole, Judgement(-2.0, (1.0, 0.5, 2.0, 3.0, -2.0)), 0.0, "x") == 4
    assert first_error(whole, Judgement(9.0, (1.0, 0.5, 2.0, 3.0, 9.0)), 0.0, "x") is None


def test_prefix_scores_are_needed_but_for_nothing_written() -> None:
    with pytest.raises(ModelError, match="error_below= finds errors by the scores of prefixes"):
        first_error(response(), Judgement(1.0), 0.0, "error_below=")
    nothing = Trajectory((0,), "", 0, "eos", (0,), (1.0,), (0.5,), Key.root(0))
    assert first_error(nothing, Judgement(-1.0), 0.0, "error_below=") == 0
