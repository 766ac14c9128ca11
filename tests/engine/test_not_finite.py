"""Logits and gradients that are no numbers fail their own problem, and no other."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from broken_pairs import asked, masking, spoilt
from scripted_server import Script, choice, serving

import nabla_eval as ne
from nabla_eval.engine import naive
from nabla_eval.engine.drive import drive, drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.rollout import rollout
from nabla_eval.engine.vllm import VLLMRollout
from nabla_eval.engine.vllm_client import Server, ServerOptions
from nabla_eval.errors import Fault, PolicyError
from nabla_eval.methods.registry import configure, start
from nabla_eval.options import Sampling
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import Generate, Replay, Trajectory
from nabla_eval.randomness import Key
from nabla_eval.testing import tiny_pair, tiny_problems

GREEDY = Sampling(temperature=0)
SPOILT = {"NaN": torch.nan, "+inf": torch.inf, "all -inf": -torch.inf}


@pytest.mark.parametrize("value", SPOILT)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_fails_alone_and_names_model_and_dtype(value: str, temperature: float) -> None:
    pair = spoilt(SPOILT[value])
    problems, sampling = asked(pair), Sampling(temperature=temperature)
    requests = [Generate(problem, problem.key, sampling) for problem in problems]
    session = Executor(pair).session()
    for ticket, request in enumerate(requests):
        session.submit(ticket, [request])
    found: dict[int, Any] = {}
    while len(found) < 3:
        found.update({ticket: own[0] for ticket, own in session.collect()})
    fault = found.pop(1)
    assert isinstance(fault, Fault) and isinstance(fault.error, PolicyError)
    assert "policy in float64 gave logits that are not finite after 3 tokens" in str(fault.error)
    assert "spoilt/1/0" in str(fault.error)
    healthy = spoilt(0.0)
    for ticket, trajectory in found.items():
        (alone,) = rollout(healthy.policy, [requests[ticket]])
        assert trajectory == alone
    with pytest.raises(PolicyError, match="not finite after 3 tokens"):
        rollout(pair.policy, requests)
    with pytest.raises(PolicyError, match="not finite after 3 tokens"):
        naive.rollout(pair, problems[1], sampling, problems[1].key)


def test_tokens_that_are_masked_are_legal() -> None:
    """Minus infinity for some tokens: they are never drawn, and the rest goes its way."""
    pair = spoilt(0.0)
    base = pair.policy.base
    base.logits[8, 3:] = -torch.inf
    for seed in range(20):
        problem = replace(asked(pair)[1], key=Key.root(seed))
        (found,) = rollout(pair.policy, [Generate(problem, problem.key, Sampling(temperature=1))])
        assert len(found.tokens) == 4 and found.tokens[3] < 3
        assert all(map(math.isfinite, found.entropy))


@pytest.mark.parametrize("method", ["nabla", "best_of_n", "greedy", "beam"])
def test_methods_end_with_the_error_for_that_problem_alone(method: str) -> None:
    pair = spoilt(torch.nan)
    problems, config = asked(pair), configure(method, {})
    ends = dict(drive([start(problem, config) for problem in problems], Executor(pair)))
    fault = ends.pop(1)
    assert isinstance(fault, Fault) and isinstance(fault.error, PolicyError)
    assert [type(end) for end in ends.values()] == [Outcome, Outcome]


def test_texts_that_are_read_again_are_checked_too() -> None:
    """Steps written elsewhere, given responses, and what a server wrote."""
    pair = spoilt(torch.nan)
    problem = asked(pair)[1]
    results = Executor(pair).run([Replay(problem, "cccc"), Replay(asked(pair)[0], "cccc")])
    assert isinstance(results[0], Fault) and isinstance(results[1], Trajectory)
    assert "not finite after 3 tokens" in str(results[0].error)
    with pytest.raises(PolicyError, match="not finite after 3 tokens"):
        ne.refine(pair, problem.prompt, pair.policy.encode("cccc"))


def test_the_tokens_of_a_server_fail_their_own_problem() -> None:
    pair = spoilt(torch.nan, position=12)
    word = pair.policy.encode("c")[0]
    with serving(Script(lambda body: choice([word] * body["max_tokens"], "length"))) as script:
        server = Server(ServerOptions(vllm_url=script.url))
        remote = VLLMRollout(spoilt(0.0).policy, server)  # which is compared with its server
        remote.policy = pair.policy
        problems = [replace(problem, max_new_tokens=9) for problem in asked(pair)]
        results = remote([Generate(problem, problem.key, GREEDY) for problem in problems])
    assert [isinstance(result, Fault) for result in results] == [False, True, False]
    assert "not finite after 7 tokens" in str(results[1].error)


class Nowhere(torch.autograd.Function):
    """The identity, differentiable nowhere."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor) -> torch.Tensor:
        return states.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.nan


@pytest.mark.parametrize(
    "options",
    [{"gradient_threshold": 0.1}, {"gradient_threshold": 0.0}, {"parameterisation": "latents"}],
)
def test_a_gradient_that_is_no_number_fails_its_problem(options: dict[str, Any]) -> None:
    pair = tiny_pair(seed=3)
    head = pair.judge.head
    judge = replace(pair.judge, head=lambda states: head(Nowhere.apply(states)))
    pair = replace(pair, reward=judge)
    config = configure("nabla", {"temperature": 1.0, "certify": False, **options})
    (problem,) = tiny_problems(pair, 1)
    for run in (
        lambda: drive_all([start(problem, config)], Executor(pair)),
        lambda: naive.nabla(pair, problem, config),
        lambda: ne.refine(pair, problem.prompt, (3, 4, 5)),
    ):
        with pytest.raises(PolicyError, match="The gradient through the policy policy in float64"):
            run()


@pytest.mark.parametrize(
    "options",
    [
        {"anchor": "sampled"},
        {"anchor": "sampled", "update": "all"},
        {"anchor": "argmax", "parameterisation": "latents"},
        {"gradient_norm": "onehot", "gradient_threshold": 0.3, "certify": False},
    ],
)
def test_masked_tokens_leave_refinement_as_specified(options: dict[str, Any]) -> None:
    pair = masking(tiny_pair(seed=3), [4, 7])
    chosen = {"n": 4, "passes": 2, "temperature": 1.0, "lr": 0.3, "steps": 4, "nll_weight": 1.0}
    config = configure("nabla", {**chosen, **options})
    problems = tiny_problems(pair, 3)
    found = drive_all([start(problem, config) for problem in problems], Executor(pair))
    for problem, outcome in zip(problems, found, strict=True):
        written = naive.nabla(pair, problem, config)
        assert (outcome.tokens, outcome.reward) == (written.tokens, pytest.approx(written.reward))
        assert all(math.isfinite(c.moved) for c in outcome.candidates)
    assert any(outcome.candidates for outcome in found)


def test_masked_tokens_stay_masked_in_refined_logits() -> None:
    pair = masking(tiny_pair(seed=3), [4])
    refined = ne.refine(pair, (3, 5), (5, 6, 8), steps=3, anchor="sampled", update="all")
    assert (refined.logits[:, 4] == -torch.inf).all()
    assert refined.gradient.isfinite().all()
