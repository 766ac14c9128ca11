"""Which positions are worth refining, and where L is differentiated there."""

from __future__ import annotations

from nabla_eval.engine.gradient import hard_sequence
from nabla_eval.methods.nabla_options import uncertain
from nabla_eval.options import DTO, Selection
from nabla_eval.protocol import Trajectory
from nabla_eval.randomness import Key


def test_a_position_needs_more_entropy_than_the_threshold_or_at_most_the_probability() -> None:
    """The paper's gate is H > eps_ent, the released max p <= 0.97: equals are told apart."""
    edge = Trajectory((5, 6, 7), "", 3, "eos", (5, 6, 7), (0.25, 0.26, 0.2), (0.97, 0.98, 0.9),
                      Key.root(0))  # fmt: skip
    assert uncertain(edge, Selection(entropy_threshold=0.25)) == [1]
    by_probability = Selection(uncertainty="top_probability", top_probability_threshold=0.97)
    assert uncertain(edge, by_probability) == [0, 2]


def test_committed_tokens_stand_and_the_rest_is_the_argmax() -> None:
    path = Trajectory((5, 6, 7), "", 3, "eos", (1, 2, 3), (1.0,) * 3, (0.5,) * 3, Key.root(0))
    assert hard_sequence(path, 1, DTO(anchor="argmax")) == (5, 2, 3)
    assert hard_sequence(path, 3, DTO(anchor="argmax")) == (5, 6, 7)
    assert hard_sequence(path, 1, DTO(anchor="sampled")) == (5, 6, 7)
