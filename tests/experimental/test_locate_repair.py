"""Locate and repair with scripted scores: what is tried where, what is kept, and why it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from nabla_eval.engine.drive import drive_all
from nabla_eval.errors import ModelError
from nabla_eval.experimental.locate_repair import first_error
from nabla_eval.experimental.requests import Ranking, Tilt, Weigh
from nabla_eval.methods.registry import configure, start
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import Generate, Problem, RewardScore, TemplateAffixes, Trajectory
from nabla_eval.randomness import Key

PROBLEM = Problem(Key.root(0), prompt=(1, 2), frame=TemplateAffixes((), ()), max_new_tokens=3)
# At every position: the policy's ranking, exact scores and gradients of the tokens.
TOKENS, LOG_P = (3, 4, 5, 6), (-0.5, -1.5, -2.0, -3.0)
SCORES = {3: -2.0, 4: 0.5, 5: 3.0, 6: 0.7}
GRADIENT = {3: -0.3, 4: 0.0, 5: 0.4, 6: 0.9}
DRAFT = (3, 3, 3)
BAD_AT_1 = (1.0, -1.0, 2.0)

Table = Mapping[tuple[int, ...], tuple[float, Sequence[float]]]  # tokens: reward, prefix scores


class Script:
    """Judges responses by a table (others: reward -9, bad at position 1); notes what is asked."""

    def __init__(self, table: Table, scored: int = 3, draft: tuple[int, ...] = DRAFT) -> None:
        self.table, self.scored, self.draft = table, scored, draft
        self.asked: list[Any] = []

    def __call__(self, requests: Sequence[Any]) -> list[Any]:
        self.asked += requests
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        if isinstance(request, Generate):
            tokens = self.draft
            if request.prefix is not None:
                kept = request.prefix.tokens[: request.keep]
                tokens = (*kept, request.token, *DRAFT)[:3]
            numbers = tuple(0.1 * (i + 1) for i in range(3))
            return Trajectory(
                tokens, "".join(map(str, tokens)), self.scored, "eos", (3,) * 3, (1.0,) * 3,
                (0.6,) * 3, request.key, log_probability=numbers,
            )  # fmt: skip
        if isinstance(request, (Weigh, Tilt)):
            return self.rank(request)
        reward, scores = self.table.get(request.trajectory.tokens, (-9.0, BAD_AT_1))
        return RewardScore(reward, tuple(scores)[: self.scored])

    def rank(self, request: Weigh | Tilt) -> Ranking:
        if isinstance(request, Weigh):
            tokens = TOKENS[: request.keep]
            values = tuple(SCORES[token] for token in tokens[request.first : request.stop])
            return Ranking(tokens, LOG_P[: request.keep], values, own=(LOG_P[0], 0.0))
        order = sorted(range(4), key=lambda i: -(LOG_P[i] + request.beta * GRADIENT[TOKENS[i]]))
        order = order[: request.keep]
        tokens, chances = tuple(TOKENS[i] for i in order), tuple(LOG_P[i] for i in order)
        values = tuple(GRADIENT[token] for token in tokens)
        return Ranking(tokens, chances, values, own=(LOG_P[0], GRADIENT[3]))


def solve(script: Script, **options: Any) -> Outcome:
    (outcome,) = drive_all([start(PROBLEM, configure("locate_repair", options))], script)
    return outcome


def tried(outcome: Outcome) -> list[int]:
    return [candidate.new_token for candidate in outcome.candidates]


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"chooser": "policy"}, [4, 5, 6]),
        ({"chooser": "policy", "candidates": 2}, [4, 5]),  # so many besides the token at hand
        ({"chooser": "policy", "candidates": 1}, [4]),
        # log pi + 3 log sigmoid(s): -2.92, -2.15 and -4.21
        ({"chooser": "exact_top_k"}, [5, 4, 6]),
        ({"chooser": "exact_top_k", "candidates": 3}, [5, 4]),  # 3, 4 and 5 are scored
        ({"chooser": "exact_top_k", "beta": 0.0}, [4, 5, 6]),
        # log pi + 3 G: -1.5, -0.8 and -0.3
        ({"chooser": "prefix_gradient"}, [6, 5, 4]),
        ({"chooser": "prefix_gradient", "candidates": 2}, [6, 5]),
        ({"chooser": "prefix_gradient", "beta": 0.0}, [4, 5, 6]),
    ],
)
def test_tokens_are_tried_once_each_in_the_choosers_order(options, order):
    """Nothing is better, so the draft stays as bad as it was: every token is tried there."""
    script = Script({DRAFT: (0.0, BAD_AT_1)})
    outcome = solve(script, **options)
    assert tried(outcome) == order and outcome.ended == "done" and outcome.tokens == DRAFT
    assert {candidate.position for candidate in outcome.candidates} == {1}
    assert {candidate.verdict for candidate in outcome.candidates} == {"rejected"}
    assert sum(isinstance(request, (Weigh, Tilt)) for request in script.asked) == 1


def test_a_tie_is_not_kept_even_where_nothing_is_bad_in_it():
    script = Script({DRAFT: (0.0, BAD_AT_1), (3, 4, 3): (0.0, (1.0, 1.0, 1.0))})
    outcome = solve(script, chooser="policy")
    assert [c.verdict for c in outcome.candidates] == ["tie", "rejected", "rejected"]
    assert outcome.tokens == DRAFT


@pytest.mark.parametrize("chooser", ["policy", "prefix_gradient"])
def test_as_many_tokens_are_tried_where_the_one_at_hand_is_not_among_the_best(chooser):
    script = Script({(3, 6, 3): (0.0, BAD_AT_1)}, draft=(3, 6, 3))
    assert tried(solve(script, chooser=chooser, candidates=2, beta=0.0)) == [3, 4]


def test_what_is_better_is_kept_and_its_own_first_error_is_next():
    script = Script({
        DRAFT: (0.0, BAD_AT_1),
        (3, 4, 3): (0.0, BAD_AT_1),  # a tie
        (3, 5, 3): (1.0, (1.0, 1.0, -1.0)),
        (3, 5, 4): (2.0, (1.0, 1.0, 0.0)),  # 0 is not below 0: nothing is bad
    })  # fmt: skip
    outcome = solve(script, chooser="policy")
    assert [(c.position, c.new_token, c.verdict) for c in outcome.candidates] == [
        (1, 4, "tie"), (1, 5, "accepted"), (2, 4, "accepted"),
    ]  # fmt: skip
    assert [c.old_reward for c in outcome.candidates] == [0.0, 0.0, 1.0]
    assert (outcome.tokens, outcome.reward, outcome.ended) == ((3, 5, 4), 2.0, "done")


def test_the_draft_is_one_of_n_rollouts():
    script = Script({DRAFT: (0.0, BAD_AT_1)})
    outcome = solve(script, chooser="policy", n=3)
    assert tried(outcome) == [4, 5] and outcome.ended == "budget"
    rollouts = [request for request in script.asked if isinstance(request, Generate)]
    assert len({request.key for request in rollouts}) == 3
    alone = solve(Script({DRAFT: (0.0, BAD_AT_1)}), n=1)
    assert alone.candidates == () and alone.ended == "budget"


def test_a_reward_that_equals_stop_reward_ends_it():
    table = {DRAFT: (0.0, BAD_AT_1), (3, 4, 3): (1.5, BAD_AT_1)}
    outcome = solve(Script(table), chooser="policy", stop_reward=1.5)
    assert tried(outcome) == [4] and outcome.ended == "reward"
    outcome = solve(Script(table), chooser="policy", stop_reward=0.0)
    assert outcome.candidates == () and outcome.ended == "reward"


def test_choices_say_what_was_known_of_both_tokens():
    (choice, *_) = solve(Script({DRAFT: (0.0, BAD_AT_1)}), chooser="exact_top_k").choices
    assert (choice.old_token, choice.new_token, choice.by, choice.scored) == (3, 5, "score", 8)
    assert (choice.old_score, choice.new_score) == (-1.0, 3.0)
    assert (choice.old_log_probability, choice.new_log_probability) == (0.2, -2.0)
    (choice, *_) = solve(Script({DRAFT: (0.0, BAD_AT_1)})).choices
    assert (choice.by, choice.scored, choice.new_score) == ("gradient", 0, None)
    assert (choice.old_gradient, choice.new_gradient) == (-0.3, 0.9)


def test_the_score_of_the_end_is_the_reward():
    """The reward model sees two of three tokens; the third's own score is that of the whole."""
    script = Script({DRAFT: (-0.5, (1.0, 1.0))}, scored=2)
    outcome = solve(script, chooser="policy", n=2)
    (choice,) = outcome.choices
    assert (choice.position, choice.old_score) == (2, -0.5)


SCORED = RewardScore(-2.0, (1.0, 0.5, -1.0, 3.0))


def response(scored: int = 4) -> Trajectory:
    """Five tokens, of which the reward model sees the first `scored`."""
    tokens = (5, 6, 7, 8, 0)
    return Trajectory(tokens, "", scored, "eos", tokens, (1.0,) * 5, (0.5,) * 5, Key.root(0))


def test_the_first_error_of_a_response_that_was_cut() -> None:
    whole = response(scored=5)
    assert first_error(whole, RewardScore(-2.0, (1.0, 0.5, 2.0, 3.0, -2.0)), 0.0) == 4
    assert first_error(whole, RewardScore(9.0, (1.0, 0.5, 2.0, 3.0, 9.0)), 0.0) is None


def test_prefix_scores_are_needed_but_for_nothing_written() -> None:
    with pytest.raises(ModelError, match="locate_repair finds errors by the scores of prefixes"):
        first_error(response(), RewardScore(1.0), 0.0)
    nothing = Trajectory((0,), "", 0, "eos", (0,), (1.0,), (0.5,), Key.root(0))
    assert first_error(nothing, RewardScore(-1.0), 0.0) == 0


def test_a_score_at_the_bound_is_no_error() -> None:
    assert first_error(response(), SCORED, -1.0) == 4  # -1 is not below -1, the end's -2 is
    assert first_error(response(), SCORED, -2.0) is None


def test_the_reward_counts_once_where_the_reward_model_saw_every_token() -> None:
    """The last prefix score is the whole response's; the reward is no sixth one."""
    seen = RewardScore(-2.0, (1.0, 0.5, 2.0, 3.0, 4.0))
    assert first_error(response(scored=5), seen, 0.0) is None
