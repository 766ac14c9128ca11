"""Which positions are worth refining: gates of the policy, and the first error's neighbourhood."""

from __future__ import annotations

import pytest

from nabla_eval.config import DTO, Selection
from nabla_eval.errors import ModelError
from nabla_eval.methods.select import first_error, hard_sequence, uncertain, worthwhile
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


def test_a_position_needs_more_entropy_than_the_threshold_or_at_most_the_probability() -> None:
    """The paper's gate is H > eps_ent, the released max p <= 0.97: equals are told apart."""
    edge = Trajectory((5, 6, 7), "", 3, "eos", (5, 6, 7), (0.25, 0.26, 0.2), (0.97, 0.98, 0.9),
                      Key.root(0))  # fmt: skip
    assert uncertain(edge, Selection(entropy_threshold=0.25)) == [1]
    by_probability = Selection(uncertainty="top_probability", top_probability_threshold=0.97)
    assert uncertain(edge, by_probability) == [0, 2]


def test_a_score_at_the_bound_is_no_error_and_an_error_may_itself_be_mended() -> None:
    assert first_error(response(), SCORES, -1.0, "x") == 4  # -1 is not below -1, the end's -2 is
    assert first_error(response(), SCORES, -2.0, "x") is None
    selection = Selection(error_below=0.0, error_window=9)
    assert worthwhile(response(entropy=(1, 1, 1, 1, 1)), SCORES, selection) == [0, 1, 2]


def test_the_reward_counts_once_where_the_reward_model_saw_every_token() -> None:
    """The last prefix score is the whole response's; the reward is no sixth one."""
    seen = Judgement(-2.0, (1.0, 0.5, 2.0, 3.0, 4.0))
    assert first_error(response(scored=5), seen, 0.0, "x") is None


def test_committed_tokens_stand_and_the_rest_is_the_argmax() -> None:
    path = Trajectory((5, 6, 7), "", 3, "eos", (1, 2, 3), (1.0,) * 3, (0.5,) * 3, Key.root(0))
    assert hard_sequence(path, 1, DTO(anchor="argmax")) == (5, 2, 3)
    assert hard_sequence(path, 3, DTO(anchor="argmax")) == (5, 6, 7)
    assert hard_sequence(path, 1, DTO(anchor="sampled")) == (5, 6, 7)
