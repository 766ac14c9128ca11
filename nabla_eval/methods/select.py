"""Which positions of a trajectory are worth refining (the paper's section 3.3; DESIGN 3.4)."""

from __future__ import annotations

from nabla_eval.options import DTO, Selection
from nabla_eval.requests import Trajectory


def uncertain(trajectory: Trajectory, selection: Selection) -> list[int]:
    """Positions at which the policy is unsure of the token, in order.

    Entropy above eps_ent (the paper), or top probability at most a bound (the released code).
    """
    if selection.uncertainty == "entropy":
        threshold = selection.entropy_threshold
        unsure = [entropy > threshold for entropy in trajectory.entropy]
    else:
        bound = selection.top_probability_threshold
        unsure = [top <= bound for top in trajectory.top_probability]
    return [i for i in range(len(trajectory.tokens)) if unsure[i]]


def hard_sequence(trajectory: Trajectory, committed: int, dto: DTO) -> tuple[int, ...]:
    """The one-hot sequence at which L is differentiated when `committed` tokens are fixed.

    anchor=sampled: the trajectory itself. anchor=argmax: Alg. 2 read literally, the committed
    tokens and then the argmax of each z_i, which need not be the tokens that were sampled.
    """
    if dto.anchor == "sampled":
        return trajectory.tokens
    return trajectory.tokens[:committed] + trajectory.argmax[committed:]
