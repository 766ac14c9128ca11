"""Prefix scores, gradients and the methods on them against `experimental/naive.py`, in float64."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
import torch
from engine_programs import Program, machines, nothing_left, plain, run_together, together
from engine_programs import pair as pair_of_kind
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
# Values of the options that are drawn.
SHARED = {"confidence": [0.97, 0.5, 1.0], "min_probability": [0.0, 0.05]}
GUIDED: dict[str, dict[str, list[Any]]] = {
    "prefix_gradient": {
        "guidance": ["eager", "lazy"], "beta": [3.0, 20.0, 0.0, -3.0],
        "linearisation": ["soft", "hard"], "lazy_threshold": [1.0, -0.5], **SHARED,
    },
    "sequential_verify": {"good_score": [1.0, -0.5, 100.0], "tries": [1, 3, 50], **SHARED},
    "exact_top_k": {"candidates": [1, 4, 50], "beta": [3.0, -1.0], **SHARED},
    "locate_repair": {
        "chooser": ["prefix_gradient", "policy", "exact_top_k"], "n": [1, 4, 8],
        "error_below": [0.0, 1.0], "candidates": [1, 3, 8], "stop_reward": [None, 0.5],
        "temperature": [0.0, 1.0], "linearisation": ["soft", "hard"],
        "min_probability": [0.0, 0.05],
    },
}  # fmt: skip
ONE_PASS = [name for name in GUIDED if name != "locate_repair"]
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
        found = [
            dataclasses.replace(p, affixes=TemplateAffixes(p.affixes.before, ())) for p in found
        ]
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


def options_of(name):
    return st.fixed_dictionaries({k: st.sampled_from(values) for k, values in GUIDED[name].items()})


def agree(ours, theirs):
    assert (ours.tokens, ours.text, ours.stop) == (theirs.tokens, theirs.text, theirs.stop)
    for name in CALLS:
        assert getattr(ours.ledger, name) == getattr(theirs.ledger, name), name


def specified(pair, name, problem, config):
    return (naive.locate_repair if name == "locate_repair" else naive.guided)(pair, problem, config)


@settings(max_examples=30)
@given(data=st.data(), name=st.sampled_from(sorted(GUIDED)), kind=st.sampled_from(sorted(PAIRS)))
def test_drawn_configurations(data, name, kind):
    kind = "process" if name == "locate_repair" else kind
    pair, shape = PAIRS[kind], data.draw(st.fixed_dictionaries(shapes))
    options = data.draw(options_of(name))
    seed, stop, thought = shape.pop("seed"), shape.pop("stop"), shape.pop("thought")
    framed = shape.pop("framed") or kind == "lacking"
    asked = problems(pair, seed, stop, framed, thought=thought)
    config, fast = run(pair, name, options, asked, **shape)
    for problem, ours in zip(asked, fast, strict=True):
        theirs = specified(pair, name, problem, config)
        agree(ours, theirs)
        if name == "locate_repair":
            assert ours.reward == pytest.approx(theirs.reward, abs=1e-10)
            same_numbers(ours.candidates, theirs.candidates)
        else:
            same_numbers(ours.choices, theirs.choices)


@st.composite
def programs(draw, kind):
    """A guided method in the place of another, for a problem with room for a token."""
    program = draw(together(kind, 1).filter(lambda one: one[0].problem.max_new_tokens > 0))[0]
    name = draw(st.sampled_from(ONE_PASS if kind == "outcome" else sorted(GUIDED)))
    problem = program.problem
    if name == "locate_repair":  # `naive.rollout` knows no stop strings
        problem = dataclasses.replace(problem, stop=())
    return Program(name, configure(name, draw(options_of(name))), problem)


@pytest.mark.parametrize("kind", ["process", "outcome", "gaps"])
def test_drawn_programs_side_by_side(kind):
    own = pair_of_kind(kind)

    @settings(plain, max_examples=2)
    @given(drawn=st.lists(programs(kind), min_size=20, max_size=20), machine=machines)
    def check(drawn, machine):
        with nothing_left():
            outcomes, held = run_together(drawn, own, machine)
        assert held <= machine["past"]
        for program, outcome in zip(drawn, outcomes, strict=True):
            agree(outcome, specified(own, program.method, program.problem, program.config))

    check()
    gc.unfreeze()  # nothing that was there before is looked at again between two rounds


def test_the_drawn_configurations_reach_what_matters():
    """Tokens are replaced by each method, and repairs are accepted and rejected."""
    pair = PAIRS["process"]
    asked = problems(pair, 0, ("b", "ce"), True, count=12)
    stops = set()
    for name in ONE_PASS:
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


@pytest.mark.parametrize("name", ONE_PASS)
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
        tail = 1 if kind == "process" else 1 + len(problem.affixes.after)
        probes = outcome.ledger.prefix_scorings + outcome.ledger.prefix_gradients
        known = len(problem.affixes.before) + len(outcome.tokens)
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
    assert read == [len(problem.affixes.before) + 1, 1, 1, 1]
