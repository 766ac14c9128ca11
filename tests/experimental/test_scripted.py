"""The prefix-guided methods on scripted scores: what is chosen, tried, kept and refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from nabla_eval import generate
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.errors import ConfigError, ModelError
from nabla_eval.experimental.guided import log_sigmoid
from nabla_eval.experimental.requests import Known, Ranking, Tilt, Weigh
from nabla_eval.methods.registry import configure, start
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import Generate, Problem, RewardScore, TemplateAffixes, Trajectory
from nabla_eval.randomness import Key
from nabla_eval.testing import tiny_pair, tiny_problems

PROBLEM = Problem(Key.root(0), prompt=(1, 2), affixes=TemplateAffixes((), ()), max_new_tokens=4)
# At every position: the policy's ranking, exact scores and gradients of the tokens.
RANKS = {3: -0.5, 4: -1.5, 5: -2.0, 6: -3.0}
SCORES = {3: -2.0, 4: 0.5, 5: 3.0, 6: 0.7}
GRADIENT = {3: -0.3, 4: 0.0, 5: 0.4, 6: 0.9}
DRAFT = (3, 3, 3)
BAD_AT_1 = (1.0, -1.0, 2.0)


def rank(request, lacks=0):
    """Answer `Weigh` or `Tilt` from the tables, where the reward model lacks a token."""
    order, values = [v for v in RANKS if v != lacks], SCORES
    token = request.trajectory.tokens[request.position]
    own = Known(token, RANKS[token])
    if isinstance(request, Tilt):
        order.sort(key=lambda v: -(RANKS[v] + request.beta * GRADIENT[v]))
        values, own = GRADIENT, replace(own, gradient=GRADIENT[token])
        found = [Known(v, RANKS[v], gradient=values[v]) for v in order]
    else:
        asked = order[: request.keep][request.first : request.stop]
        found = [Known(v, RANKS[v], values[v] if v in asked else None) for v in order]
    return Ranking(tuple(found[: request.keep]), own)


def response(tokens, stop, scored, top=0.6):
    numbers = tuple(0.1 * (i + 1) for i in range(len(tokens)))
    return Trajectory(
        tokens, "".join(map(str, tokens)), scored, stop, (3,) * len(tokens),
        (1.0,) * len(tokens), (top,) * len(tokens), Key.root(0), log_probability=numbers,
    )  # fmt: skip


def unsure(requests, top=0.6, lacks=0):
    """A policy that is unsure everywhere, and a reward model that knows tokens alone."""
    results: list[Any] = []
    for request in requests:
        if not isinstance(request, Generate):
            results.append(rank(request, lacks))
            continue
        given = () if request.prefix is None else request.prefix.tokens[: request.keep]
        tokens = (*given, *(() if request.token is None else (request.token,)))
        grown = tokens if len(tokens) == 4 else (*tokens, 3)
        results.append(response(grown, "length" if len(grown) == 4 else "step", len(grown), top))
    return results


def guide(name, execute=unsure, **options):
    (outcome,) = drive_all([start(PROBLEM, configure(name, options))], execute)
    return outcome


@pytest.mark.parametrize(
    ("name", "options", "token"),
    [
        # -0.5 - 0.9, -1.5, -2 + 1.2, -3 + 2.7: the last wins; with beta = 1 the first stays.
        ("prefix_gradient", {}, 6),
        ("prefix_gradient", {"beta": 1}, 3),
        ("prefix_gradient", {"beta": -3}, 3),
        ("prefix_gradient", {"guidance": "lazy"}, 6),
        ("prefix_gradient", {"guidance": "lazy", "lazy_threshold": -2.5}, 3),
        ("prefix_gradient", {"guidance": "lazy", "lazy_threshold": -2.0}, 6),  # no more than it
        ("sequential_verify", {"good_score": 0.5}, 5),  # a score has to be above
        ("sequential_verify", {}, 5),
        ("sequential_verify", {"good_score": 0.4}, 4),
        ("sequential_verify", {"tries": 2}, 4),  # none is good: the best seen
        ("sequential_verify", {"tries": 1}, 3),
        ("exact_top_k", {"candidates": 4}, 5),
        ("exact_top_k", {"candidates": 2}, 4),
        ("exact_top_k", {"beta": 0}, 3),
    ],
)
def test_the_token_that_is_chosen(name, options, token):
    outcome = guide(name, **options)
    assert outcome.tokens == (token,) * 4
    assert [choice.position for choice in outcome.choices] == [0, 1, 2, 3]
    assert {(choice.old_token, choice.new_token) for choice in outcome.choices} == {(3, token)}


@pytest.mark.parametrize(("top", "asked"), [(0.98, 0), (0.97, 4)])
def test_nothing_is_asked_where_the_policy_is_surer_than_the_confidence(top, asked):
    outcome = guide("exact_top_k", lambda requests: unsure(requests, top), confidence=0.97)
    assert len(outcome.choices) == asked and (asked or outcome.tokens[:1] == (3,))


def test_the_score_of_another_token_keeps_no_token_that_the_reward_model_lacks():
    """Lazily: the first rank is 4 where the reward model has no 3, and its 0.5 is not the 3's."""
    outcome = guide(
        "prefix_gradient", lambda requests: unsure(requests, lacks=3), guidance="lazy",
        lazy_threshold=0.0,
    )  # fmt: skip
    assert outcome.tokens == (6,) * 4
    assert {choice.old_score for choice in outcome.choices} == {None}


@pytest.mark.parametrize("score", [-800.0, -1.0, 0.0, 2.5, 800.0])
def test_log_sigmoid(score):
    exact = score if score < -700 else -math.log1p(math.exp(-score))
    assert log_sigmoid(score) == pytest.approx(exact, abs=1e-12)


PAIR = tiny_pair()
GREEDY: tuple[str, dict[str, Any]] = ("greedy", {})


@pytest.mark.parametrize(
    ("method", "options", "said", "other"),
    [
        ("locate_repair", {"n": 1}, "n=1 is the draft alone", ("best_of_n", {"n": 1})),
        ("prefix_gradient", {"beta": 0}, "beta=0 is greedy decoding", GREEDY),
        ("exact_top_k", {"beta": 0}, "beta=0 is greedy decoding", GREEDY),
        ("exact_top_k", {"candidates": 1}, "candidates=1 is greedy decoding", GREEDY),
        ("sequential_verify", {"tries": 1}, "tries=1 is greedy decoding", GREEDY),
    ],
)
def test_options_that_leave_nothing_are_said_and_leave_nothing(method, options, said, other):
    assert said in (configure(method, options).idle or "")
    for problem in ("ab", "cab"):
        ours = generate(PAIR, problem, method, max_new_tokens=8, **options)
        theirs = generate(PAIR, problem, other[0], max_new_tokens=8, **other[1])
        assert ours.token_ids == theirs.token_ids


def test_a_server_cannot_be_asked_about_every_token():
    from nabla_eval.engine.vllm import VLLMRollout

    pair = tiny_pair(seed=3)
    rollout = VLLMRollout.__new__(VLLMRollout)
    rollout.policy, rollout.server = pair.policy, SimpleNamespace(context=None)  # type: ignore[assignment]
    method = start(tiny_problems(pair, 1)[0], configure("prefix_gradient", {}))
    with pytest.raises(ConfigError, match="rollout=vllm"):
        rollout.decoder().add(list(enumerate(next(method))))


Table = Mapping[tuple[int, ...], tuple[float, Sequence[float]]]  # tokens: reward, prefix scores
HOPELESS: Table = {DRAFT: (0.0, BAD_AT_1)}


@dataclass
class Repairs:
    """Judges responses by a table (others: reward -9, bad at position 1); notes what is asked."""

    table: Table
    scored: int = 3
    draft: tuple[int, ...] = DRAFT
    asked: list[Any] = field(default_factory=list)

    def __call__(self, requests: Sequence[Any]) -> list[Any]:
        self.asked += requests
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        if isinstance(request, Weigh | Tilt):
            return rank(request)
        if isinstance(request, Generate):
            tokens = self.draft
            if request.prefix is not None:
                kept = request.prefix.tokens[: request.keep]
                tokens = (*kept, request.token or 0, *DRAFT)[:3]
            return response(tokens, "eos", self.scored)
        reward, scores = self.table.get(request.trajectory.tokens, (-9.0, BAD_AT_1))
        return RewardScore(reward, tuple(scores)[: self.scored])


def repair(script, **options):
    (outcome,) = drive_all([start(PROBLEM, configure("locate_repair", options))], script)
    return outcome


def tried(outcome: Outcome) -> list[int]:
    return [candidate.new_token for candidate in outcome.candidates]


def test_what_is_better_is_kept_and_its_own_first_error_is_next():
    """A tie is not kept, even where nothing is bad in it; a score at the bound is no error."""
    script = Repairs({
        DRAFT: (0.0, BAD_AT_1),
        (3, 4, 3): (0.0, (1.0, 1.0, 1.0)),
        (3, 5, 3): (1.0, (1.0, 1.0, -1.0)),
        (3, 5, 4): (2.0, (1.0, 1.0, 0.0)),
    })  # fmt: skip
    outcome = repair(script, chooser="policy")
    assert [(c.position, c.new_token, c.verdict) for c in outcome.candidates] == [
        (1, 4, "tie"), (1, 5, "accepted"), (2, 4, "accepted"),
    ]  # fmt: skip
    assert [c.old_reward for c in outcome.candidates] == [0.0, 0.0, 1.0]
    assert (outcome.tokens, outcome.reward, outcome.ended) == ((3, 5, 4), 2.0, "done")


@pytest.mark.parametrize(("stop", "tokens"), [(1.5, [4]), (0.0, [])])
def test_a_reward_that_equals_stop_reward_ends_it(stop, tokens):
    script = Repairs({DRAFT: (0.0, BAD_AT_1), (3, 4, 3): (1.5, BAD_AT_1)})
    outcome = repair(script, chooser="policy", stop_reward=stop)
    assert tried(outcome) == tokens and outcome.ended == "reward"


def test_repairs_say_what_was_known_of_both_tokens():
    (choice, *_) = repair(Repairs(HOPELESS), chooser="exact_top_k").choices
    assert (choice.old_token, choice.new_token, choice.by, choice.scored) == (3, 5, "score", 8)
    assert (choice.old_score, choice.new_score) == (-1.0, 3.0)
    assert (choice.old_log_probability, choice.new_log_probability) == (0.2, -2.0)
    (choice, *_) = repair(Repairs(HOPELESS)).choices
    assert (choice.by, choice.scored, choice.new_score) == ("gradient", 0, None)
    assert (choice.old_gradient, choice.new_gradient) == (-0.3, 0.9)
    # The reward model sees two of three tokens; the third's own score is that of the whole.
    script = Repairs({DRAFT: (-0.5, (1.0, 1.0))}, scored=2)
    (choice,) = repair(script, chooser="policy", n=2).choices
    assert (choice.position, choice.old_score) == (2, -0.5)


def test_an_outcome_reward_has_no_error_to_locate():
    pair = tiny_pair(seed=3, process=False)
    method = start(tiny_problems(pair, 1)[0], configure("locate_repair", {}))
    with pytest.raises(ModelError) as raised:
        drive_all([method], Executor(pair))
    assert str(raised.value).startswith("method=locate_repair finds errors by the scores of prefix")
    assert "one score a response. Give a process reward" in str(raised.value)
