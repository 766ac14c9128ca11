"""Which positions of a trajectory are worth refining (the paper's section 3.3; DESIGN 3.4)."""

from __future__ import annotations

from nabla_eval.config import DTO, Selection
from nabla_eval.errors import ModelError
from nabla_eval.requests import Judgement, Trajectory


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


def worthwhile(trajectory: Trajectory, judged: Judgement, selection: Selection) -> list[int]:
    """Uncertain positions, in order; with `error_below`, the last before the first error.

    An error at a position can be mended there or before it, and nothing after it can. Raises
    `ModelError` for an outcome reward, which has no prefix scores to find an error by.
    """
    places = uncertain(trajectory, selection)
    if selection.error_below is not None:
        error = first_error(trajectory, judged, selection.error_below, "error_below=")
        places = [i for i in places if error is None or i <= error][-selection.error_window :]
    return places


def first_error(response: Trajectory, judged: Judgement, below: float, asks: str) -> int | None:
    """The first position whose prefix score is below a bound; the end's score is the reward.

    None without one. Raises `ModelError`, in the name of the option or method that asks, where the
    reward model gives no prefix scores.
    """
    scores = judged.prefix_scores
    if response.scored and not scores:
        raise ModelError(
            f"{asks} finds errors by the scores of prefixes, and this reward model is an outcome "
            "reward: one score a response. Give a process reward (a token classifier), or try "
            "method=prefix_gradient, which asks about single prefixes."
        )
    if response.scored < len(response.tokens):
        scores = (*scores, judged.reward)
    return next((i for i, score in enumerate(scores) if score < below), None)


def hard_sequence(trajectory: Trajectory, committed: int, dto: DTO) -> tuple[int, ...]:
    """The one-hot sequence at which L is differentiated when `committed` tokens are fixed.

    anchor=sampled: the trajectory itself. anchor=argmax: Alg. 2 read literally, the committed
    tokens and then the argmax of each z_i, which need not be the tokens that were sampled.
    """
    if dto.anchor == "sampled":
        return trajectory.tokens
    return trajectory.tokens[:committed] + trajectory.argmax[committed:]
