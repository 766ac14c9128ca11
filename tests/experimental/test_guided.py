"""What the guided methods alone promise: scripted scores, closed forms, refusals."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.errors import ConfigError, ModelError
from nabla_eval.experimental.guided import log_sigmoid
from nabla_eval.experimental.requests import Ranking, Tilt, Weigh
from nabla_eval.methods.registry import configure, start
from nabla_eval.protocol import Generate, Problem, TemplateAffixes, Trajectory
from nabla_eval.randomness import Key
from nabla_eval.testing import tiny_pair, tiny_problems

PROBLEM = Problem(Key.root(0), prompt=(1, 2), frame=TemplateAffixes((), ()), max_new_tokens=4)
# The policy's ranking at every position, and the scores of these tokens.
TOKENS, LOG_P = (3, 4, 5, 6), (-0.5, -1.5, -2.0, -3.0)
SCORES = {3: -2.0, 4: 0.5, 5: 3.0, 6: 0.7}
GRADIENT = {3: -0.3, 4: 0.0, 5: 0.4, 6: 0.9}


def execute(requests, top=0.6):
    """A policy that is unsure everywhere, and a reward model that knows tokens alone."""
    return [answer(request, top) for request in requests]


def answer(request, top):
    if isinstance(request, Generate):
        given = () if request.prefix is None else request.prefix.tokens[: request.keep]
        tokens = (*given, *(() if request.token is None else (request.token,)))
        grown = tokens if len(tokens) == 4 else (*tokens, TOKENS[0])
        return Trajectory(
            grown, "".join(map(str, grown)), len(grown), "length" if len(grown) == 4 else "step",
            argmax=(3,) * 4, entropy=(1.0,) * 4, top_probability=(top,) * 4, key=request.key,
        )  # fmt: skip
    if isinstance(request, Weigh):
        tokens = TOKENS[: request.keep]
        values = tuple(SCORES[token] for token in tokens[request.first : request.stop])
        return Ranking(tokens, LOG_P[: request.keep], values, own=(LOG_P[0], 0.0))
    assert isinstance(request, Tilt)
    order = sorted(range(4), key=lambda i: -(LOG_P[i] + request.beta * GRADIENT[TOKENS[i]]))
    tokens = tuple(TOKENS[i] for i in order[: request.keep])
    return Ranking(
        tokens, tuple(LOG_P[i] for i in order[: request.keep]),
        tuple(GRADIENT[token] for token in tokens), own=(LOG_P[0], GRADIENT[3]),
    )  # fmt: skip


def run(name, execute=execute, **options):
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
    outcome = run(name, **options)
    assert outcome.tokens == (token,) * 4
    assert [choice.position for choice in outcome.choices] == [0, 1, 2, 3]
    assert {(choice.old_token, choice.new_token) for choice in outcome.choices} == {(3, token)}


def test_where_the_policy_is_sure_nothing_is_asked():
    outcome = run("exact_top_k", lambda requests: execute(requests, top=0.98))
    assert outcome.tokens[:1] == (3,) and outcome.choices == ()


def test_a_probability_that_equals_the_confidence_is_not_sure():
    outcome = run("exact_top_k", lambda requests: execute(requests, top=0.97), confidence=0.97)
    assert len(outcome.choices) == 4
    for name in ("prefix_gradient", "sequential_verify", "exact_top_k"):
        assert configure(name, {"confidence": 1.0, "min_probability": 0.0}).confidence == 1.0


def test_the_score_of_another_token_keeps_no_token_that_the_reward_model_lacks():
    """Lazily: the first rank is 4 where the reward model has no 3, and its 0.5 is not the 3's."""

    def lacking(requests):
        results = execute(requests)
        for i, request in enumerate(requests):
            if isinstance(request, Weigh):
                results[i] = Ranking((4,), (-1.5,), (SCORES[4],), own=(LOG_P[0], 0.0))
        return results

    outcome = run("prefix_gradient", lacking, guidance="lazy", lazy_threshold=0.0)
    assert outcome.tokens == (6,) * 4
    assert {choice.old_score for choice in outcome.choices} == {None}


def test_choices_say_what_was_known():
    (first, *_) = run("sequential_verify").choices
    assert (first.old_score, first.new_score, first.scored) == (-2.0, 3.0, 3)
    assert (first.old_log_probability, first.new_log_probability) == (-0.5, -2.0)
    assert first.old_gradient is None and first.by == "score"
    (first, *_) = run("prefix_gradient", guidance="lazy").choices
    assert (first.old_gradient, first.new_gradient, first.old_score) == (-0.3, 0.9, -2.0)


@pytest.mark.parametrize("score", [-800.0, -1.0, 0.0, 2.5, 800.0])
def test_log_sigmoid(score):
    exact = score if score < -700 else -math.log1p(math.exp(-score))
    assert log_sigmoid(score) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("prefix_gradient", "confidence", 0.0),
        ("prefix_gradient", "beta", "nan"),
        ("prefix_gradient", "lazy_threshold", "inf"),
        ("sequential_verify", "tries", 0),
        ("exact_top_k", "candidates", 0),
        ("locate_repair", "n", 0),
        ("locate_repair", "error_below", "inf"),
    ],
)
def test_options_out_of_range_are_refused(name, option, value):
    with pytest.raises(ConfigError, match=option):
        configure(name, {option: value})


def test_an_outcome_reward_has_no_error_to_locate():
    pair = tiny_pair(seed=3, process=False)
    method = start(tiny_problems(pair, 1)[0], configure("locate_repair", {}))
    with pytest.raises(ModelError) as raised:
        drive_all([method], Executor(pair))
    assert str(raised.value).startswith("method=locate_repair")
    assert "one score a response. Give a process reward" in str(raised.value)


def test_a_server_cannot_be_asked_about_every_token():
    from nabla_eval.engine.vllm import VLLMRollout

    pair = tiny_pair(seed=3)
    rollout = VLLMRollout.__new__(VLLMRollout)
    rollout.policy, rollout.server = pair.policy, SimpleNamespace(context=None)
    method = start(tiny_problems(pair, 1)[0], configure("prefix_gradient", {}))
    with pytest.raises(ConfigError, match="rollout=vllm"):
        rollout(next(method))


@pytest.mark.parametrize(
    ("ranks", "most"),
    [
        ({"keep": 3, "first": 1, "stop": 9}, 2),  # no rank is past the last
        ({"keep": 9, "first": 1, "stop": 4}, 3),
        ({"keep": 1, "first": 1, "stop": 0}, 0),
    ],
)
def test_a_question_about_a_prefix_says_what_it_costs_at_most(ranks, most):
    response = Trajectory((3,), "", 1, "eos", (3,), (1.0,), (0.5,), Key.root(0))
    assert Weigh(PROBLEM, response, 0, **ranks).most_calls == most
    assert Tilt(PROBLEM, response, 0, beta=1.0).most_calls == 2
