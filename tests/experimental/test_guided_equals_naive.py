"""Prefix scores, gradients and the methods on them against `experimental/naive.py`, in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.prefix_cache import PrefixCaches
from nabla_eval.engine.teacher_force import teacher_force
from nabla_eval.experimental import naive
from nabla_eval.experimental.handlers import tilt, weigh
from nabla_eval.experimental.requests import Tilt, Weigh
from nabla_eval.methods.registry import configure, start
from nabla_eval.models.pair import Pair
from nabla_eval.protocol import TemplateAffixes
from nabla_eval.testing import tiny_pair, tiny_problems
from nabla_eval.thought import Thought


def lacking(pair: Pair, tokens: tuple[int, ...]) -> Pair:
    """The same pair, whose reward model does not know some of the policy's tokens."""
    known = torch.ones(pair.policy.vocabulary, dtype=torch.bool)
    known[list(tokens)] = False
    table = pair.judge.embedding.clone()
    table[list(tokens)] = 0.0
    reward = dataclasses.replace(pair.judge, known=known, embedding=table)
    return dataclasses.replace(pair, reward=reward)


PAIRS = {
    "process": tiny_pair(seed=3),
    "outcome": tiny_pair(seed=3, process=False),
    "lacking": lacking(tiny_pair(seed=3), (0, 1, 4)),
}
GUIDED = {
    "prefix_gradient": {
        "guidance": st.sampled_from(["eager", "lazy"]),
        "beta": st.sampled_from([3.0, 20.0, 0.0, -3.0]),
        "linearisation": st.sampled_from(["soft", "hard"]),
        "lazy_threshold": st.sampled_from([1.0, -0.5]),
        "confidence": st.sampled_from([0.97, 0.5, 1.0]),
        "min_probability": st.sampled_from([0.0, 0.05]),
    },
    "sequential_verify": {
        "good_score": st.sampled_from([1.0, -0.5, 100.0]),
        "tries": st.sampled_from([1, 3, 50]),
        "confidence": st.sampled_from([0.97, 1.0]),
        "min_probability": st.sampled_from([0.0, 0.05]),
    },
    "exact_top_k": {
        "candidates": st.sampled_from([1, 4, 50]),
        "beta": st.sampled_from([3.0, -1.0]),
        "confidence": st.sampled_from([0.97, 1.0]),
        "min_probability": st.sampled_from([0.0, 0.05]),
    },
}
REPAIR = {
    "chooser": st.sampled_from(["prefix_gradient", "policy", "exact_top_k"]),
    "n": st.sampled_from([1, 4, 8]),
    "error_below": st.sampled_from([0.0, 1.0]),
    "candidates": st.sampled_from([1, 3, 8]),
    "stop_reward": st.sampled_from([None, 0.5]),
    "temperature": st.sampled_from([0.0, 1.0]),
    "linearisation": st.sampled_from(["soft", "hard"]),
    "min_probability": st.sampled_from([0.0, 0.05]),
}
CALLS = ("generated_tokens", "scorings", "prefix_scorings", "prefix_gradients", "model_calls")
shapes = {
    "width": st.sampled_from([1, 3, 16]),
    "budget": st.sampled_from([1, 60, 10**6]),
    "past": st.sampled_from([0, 25, 10**6]),
    "seed": st.integers(0, 10**6),
    "stop": st.sampled_from([(), ("b", "cd"), ("<pad>",), ("e<pad>", "f")]),
    "thought": st.sampled_from([None, None, Thought("e", "f"), Thought("<pad>", opened=True)]),
    "framed": st.booleans(),
}


def problems(pair, seed, stop, framed, count=3, thought=None):
    found = tiny_problems(pair, count, seed=seed, stop=stop)
    found = [dataclasses.replace(problem, thought=thought) for problem in found]
    if not framed:  # a template without an end: the last token's own score is that of the response
        found = [dataclasses.replace(p, frame=TemplateAffixes(p.frame.before, ())) for p in found]
    return found


def same_numbers(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        for field in dataclasses.fields(a):
            one, other = getattr(a, field.name), getattr(b, field.name)
            if isinstance(one, float) and isinstance(other, float):
                assert one == pytest.approx(other, abs=1e-9), field.name
            else:
                assert one == other, field.name


def run(pair, name, options, asked, *, width, budget, past):
    config = configure(name, options)
    executor = Executor(pair, max_batch_tokens=budget, max_cached_tokens=past)
    return config, drive_all([start(problem, config) for problem in asked], executor, width)


@settings(max_examples=14)
@given(data=st.data(), name=st.sampled_from(sorted(GUIDED)), kind=st.sampled_from(sorted(PAIRS)))
def test_guided_methods(data, name, kind):
    pair, shape = PAIRS[kind], data.draw(st.fixed_dictionaries(shapes))
    options = data.draw(st.fixed_dictionaries(GUIDED[name]))
    framed = shape.pop("framed") or kind == "lacking"
    thought = shape.pop("thought")
    asked = problems(pair, shape.pop("seed"), shape.pop("stop"), framed, thought=thought)
    config, fast = run(pair, name, options, asked, **shape)
    for problem, ours in zip(asked, fast, strict=True):
        theirs = naive.guided(pair, problem, config)
        assert (ours.tokens, ours.text, ours.stop) == (theirs.tokens, theirs.text, theirs.stop)
        same_numbers(ours.choices, theirs.choices)
        assert all(getattr(ours.ledger, c) == getattr(theirs.ledger, c) for c in CALLS)


@settings(max_examples=8)
@given(options=st.fixed_dictionaries(REPAIR), **shapes)
def test_locate_and_repair(options, width, budget, past, seed, stop, framed, thought):
    pair = PAIRS["process"]
    asked = problems(pair, seed, stop, framed, thought=thought)
    config, fast = run(pair, "locate_repair", options, asked, width=width, budget=budget, past=past)
    for problem, ours in zip(asked, fast, strict=True):
        theirs = naive.locate_repair(pair, problem, config)
        assert (ours.tokens, ours.text, ours.stop) == (theirs.tokens, theirs.text, theirs.stop)
        assert ours.reward == pytest.approx(theirs.reward, abs=1e-10)
        same_numbers(ours.candidates, theirs.candidates)
        assert all(getattr(ours.ledger, c) == getattr(theirs.ledger, c) for c in CALLS)


def test_the_drawn_configurations_reach_what_matters():
    """Tokens are replaced by each method, and repairs are accepted and rejected."""
    pair = PAIRS["process"]
    asked = problems(pair, 0, ("b", "ce"), True, count=12)
    stops = set()
    for name in GUIDED:
        _, outcomes = run(pair, name, {}, asked, width=16, budget=10**6, past=10**6)
        choices = [choice for outcome in outcomes for choice in outcome.choices]
        assert sum(c.new_token != c.old_token for c in choices) >= 5
        stops |= {outcome.stop for outcome in outcomes}
    assert stops == {"stop", "eos", "length"}
    options = {"n": 8, "error_below": 1.0, "temperature": 1.0}
    _, outcomes = run(pair, "locate_repair", options, asked, width=16, budget=10**6, past=10**6)
    verdicts = [c.verdict for outcome in outcomes for c in outcome.candidates]
    assert verdicts.count("accepted") >= 5 and verdicts.count("rejected") >= 5


def log_sigmoid(score):
    return float(torch.nn.functional.logsigmoid(score))


@pytest.mark.parametrize("kind", sorted(PAIRS))
@pytest.mark.parametrize("linearisation", ["soft", "hard"])
def test_g_is_the_derivative_along_each_embedding(kind, linearisation):
    """Central differences of log sigmoid(s) in e along every e_v: error h^2/6 |f'''|, h = 1e-4."""
    pair = PAIRS[kind]
    (problem,) = tiny_problems(pair, 1)
    (trajectory,) = teacher_force(pair.policy, [(problem, (5, 6, 7, 8))])
    for position in (0, 2, 3):
        request = Tilt(problem, trajectory, position, 3.0, linearisation)
        (ranking,) = tilt(pair, [request], PrefixCaches(10**6))
        p = torch.softmax(pair.policy.head(trajectory.states[position]), -1)
        prefix = list(trajectory.tokens[:position])
        words = range(len(p))
        mask = torch.tensor([naive.known(pair, problem, prefix, word) for word in words])
        w = torch.where(mask, p, 0.0)
        if linearisation == "hard":
            w = torch.nn.functional.one_hot(w.argmax(), len(w)).double()
        w = w / w.sum()

        value = lambda w: log_sigmoid(naive.prefix_score(pair, problem, prefix, w))  # noqa: E731, B023

        for token in range(len(p)):
            if not mask[token]:
                assert ranking.gradient[token] == -torch.inf
                assert token not in [known.token for known in ranking.tokens]
                continue
            step = torch.zeros_like(w)
            step[token] = 1e-4
            slope = (value(w + step) - value(w - step)) / 2e-4
            assert float(ranking.gradient[token]) == pytest.approx(slope, rel=1e-5, abs=1e-6)


class Counter:
    """Counts the tokens that go through a model: those that are not padding."""

    def __init__(self, base):
        self.tokens = 0
        self.handle = base.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _module, _args, kwargs):
        width = kwargs["inputs_embeds"].shape[1]
        self.tokens += int(kwargs["attention_mask"][:, -width:].sum())


@pytest.mark.parametrize("name", sorted(GUIDED))
@pytest.mark.parametrize(("kind", "past"), [("process", 0), ("process", 10**6), ("outcome", 10**6)])
def test_the_reward_model_reads_what_the_ledger_says(name, kind, past):
    """Every token that is forwarded is charged; with a cache none is encoded twice."""
    pair = PAIRS[kind]
    asked = problems(pair, 1, (), True, count=4)
    counter = Counter(pair.judge.base)
    options = {"guidance": "lazy"} if name == "prefix_gradient" else {}
    try:
        _, outcomes = run(pair, name, options, asked, width=8, budget=10**6, past=past)
    finally:
        counter.handle.remove()
    assert counter.tokens == sum(outcome.ledger.reward_tokens for outcome in outcomes)
    if not past:
        return
    for problem, outcome in zip(asked, outcomes, strict=True):
        tail = 1 if kind == "process" else 1 + len(problem.frame.after)
        probes = outcome.ledger.prefix_scorings + outcome.ledger.prefix_gradients
        known = len(problem.frame.before) + len(outcome.tokens)
        assert outcome.ledger.reward_tokens <= known + tail * probes


def test_a_token_that_was_scored_and_then_written_is_not_read_again():
    pair = PAIRS["process"]
    (problem,) = tiny_problems(pair, 1)
    (trajectory,) = teacher_force(pair.policy, [(problem, (5, 6, 7, 8))])
    caches, read = PrefixCaches(10**6), []
    for position in range(4):
        order = pair.policy.head(trajectory.states[position]).sort(descending=True).indices.tolist()
        rank = order.index(trajectory.tokens[position])
        request = Weigh(problem, trajectory, position, rank + 1, rank, rank + 1)
        (ranking,) = weigh(pair, [request], caches)
        read.append(ranking.cost.reward_tokens)
    assert read == [len(problem.frame.before) + 1, 1, 1, 1]
