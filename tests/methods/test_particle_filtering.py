"""Particle filtering on trees whose every path can be enumerated."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scripted_trees import PROBLEM, SEMICOLON, ScriptedTree

from nabla_eval.engine.drive import drive_all
from nabla_eval.methods import particle_filtering
from nabla_eval.methods.particle_filtering import ParticleFilter, ancestors, softmax
from nabla_eval.methods.registry import configure, start

# What may follow each text, with the policy's probability; responses of one, two and three steps.
TREE = {
    "": {"a;": 0.6, "b.": 0.4},
    "a;": {"c.": 0.3, "d;": 0.7},
    "a;d;": {"e.": 0.5, "f.": 0.5},
}
WORTH = {"a;": 0.5, "b.": -1.0, "a;c.": 1.2, "a;d;": -0.3, "a;d;e.": 0.9, "a;d;f.": 0.1}
LONGEST = 3


class Choices:
    """Choices between alternatives, the first of them as told and the others the first possible."""

    def __init__(self, told):
        self.told, self.taken, self.probability = told, [], 1.0

    def pick(self, probabilities):
        likely = [i for i, p in enumerate(probabilities) if p > 0]
        at = len(self.taken)
        which = self.told[at] if at < len(self.told) else 0
        self.taken.append((which, len(likely)))
        self.probability *= probabilities[likely[which]]
        return likely[which]


def every_run(run):
    """What `run` returns and its probability, for every sequence of choices that it can make."""
    waiting = [[]]
    while waiting:
        choices = Choices(waiting.pop())
        yield choices, run(choices)
        taken = [which for which, _ in choices.taken]
        for at in range(len(choices.told), len(taken)):
            waiting += [[*taken[:at], other] for other in range(1, choices.taken[at][1])]


def cells(rule, weights, count):
    """The intervals of one uniform number within which a draw is the same."""
    edges = np.cumsum(weights)
    if rule == "systematic":
        edges = np.append((edges * count) % 1.0, 1.0)
    edges = np.unique(np.clip([0.0, *edges], 0.0, 1.0).round(12))
    return [((low + high) / 2, high - low) for low, high in pairwise(edges)]


def chosen_uniforms(choices, rule, weights, count):
    """Uniform numbers for `ancestors`, each the middle of a cell that was chosen by its length."""
    found = cells(rule, weights, count)
    own = 1 if rule == "systematic" else count
    return np.array([found[choices.pick([p for _, p in found])][0] for _ in range(own)] * count)


def filtered(choices, monkeypatch, **options):
    """The constant's estimate times the weighted share of each response, of one run."""
    config = configure("particle_filtering", {**SEMICOLON, **options})
    size = config.particles
    run = ParticleFilter(PROBLEM, config)
    constant, levels = [1.0], [1]

    def draw(rule, weights, uniforms):
        uniforms = chosen_uniforms(choices, rule, weights, size)
        return ancestors(rule, weights, uniforms[:size])

    resample = run.resample

    def noted(key):
        before = np.exp(run.log_weights).mean()
        resample(key)
        constant[0] *= before / np.exp(run.log_weights).mean()
        levels[0] += 1

    monkeypatch.setattr(particle_filtering, "ancestors", draw)
    run.resample = noted

    def children(text, i):
        return list(TREE[text])[choices.pick(list(TREE[text].values()))]

    script = ScriptedTree(children, WORTH.get)
    part = run.run()
    with pytest.raises(StopIteration):
        requests = next(part)
        while True:
            requests = part.send(script(requests))
    estimate = dict.fromkeys((text for text in WORTH if text.endswith(".")), 0.0)
    for node, weight in zip(run.particles, run.log_weights, strict=True):
        rest = (LONGEST - levels[0]) * run.log_weight(node)  # had the others gone on
        estimate[node.trajectory.text] += constant[0] * math.exp(weight + rest) / size
    return estimate


def exact(rule, temperature):
    """p(y) times the weights of its first 1, 2 and 3 steps; a complete one is weighed again."""
    value = {"last": lambda scores: scores[-1], "min": min}[rule]
    found, waiting = {}, [("", 1.0, [], [])]
    while waiting:
        text, p, scores, values = waiting.pop()
        for step, chance in TREE[text].items() if text in TREE else ():
            own = [*scores, WORTH[text + step]]
            waiting.append((text + step, p * chance, own, [*values, value(own)]))
        if text.endswith("."):
            padded = values + values[-1:] * (LONGEST - len(values))
            found[text] = p * math.exp(sum(padded) / temperature)
    return found


@pytest.mark.parametrize("rule", ["multinomial", "systematic"])
@pytest.mark.parametrize(
    ("threshold", "temperature", "step_score"), [(1.0, 1.0, "last"), (0.85, 0.6, "min")]
)
def test_estimates_are_unbiased(rule, threshold, temperature, step_score, monkeypatch):
    """E[constant x weighted share] over every draw = the enumerated target, for each response."""
    options = {
        "particles": 2, "resampling": rule, "ess_threshold": threshold,
        "weight_temperature": temperature, "step_score": step_score,
    }  # fmt: skip
    total, sums = 0.0, dict.fromkeys(WORTH, 0.0)
    for choices, estimate in every_run(lambda c: filtered(c, monkeypatch, **options)):
        total += choices.probability
        for text, value in estimate.items():
            sums[text] += choices.probability * value
    assert total == pytest.approx(1.0, abs=1e-9)
    for text, value in exact(step_score, temperature).items():
        assert sums[text] == pytest.approx(value, rel=1e-8)


@pytest.mark.parametrize("rule", ["multinomial", "systematic"])
@pytest.mark.parametrize("weights", [[0.5, 0.0, 0.2, 0.3], [0.25] * 4, [0.0, 0.0, 0.0, 1.0]])
def test_particles_are_drawn_in_proportion_to_weight(rule, weights):
    """E[copies of i] = N w_i, exactly; systematic copies are N w_i rounded down or up."""
    expected = np.zeros(4)
    for middle, length in cells(rule, weights, 4):
        copies = np.bincount(ancestors(rule, weights, np.full(4, middle)), minlength=4)
        expected += length * copies
        if rule == "systematic":
            assert (abs(copies - 4 * np.array(weights)) < 1).all()
    assert expected == pytest.approx(4 * np.array(weights), abs=1e-9)


def test_a_grid_s_last_point_stays_below_one():
    last = np.full(3, 1 - 2.0**-53)
    assert ancestors("systematic", [0.3, 0.7, 0.0], last) == [1, 1, 1]


def test_weights_without_any_are_zero():
    assert softmax([-math.inf, -math.inf]).tolist() == [0, 0]
    assert softmax([0.0, math.log(3), -math.inf]) == pytest.approx([0.25, 0.75, 0.0])


def solve(script, **options):
    config = configure("particle_filtering", {**SEMICOLON, **options})
    (outcome,) = drive_all([start(PROBLEM, config)], script)
    return outcome


@pytest.mark.parametrize(("threshold", "followed"), [(1.0, {"a"}), (0.4, {"a", "b"})])
def test_particles_are_resampled_where_their_effective_number_is_low(threshold, followed):
    """Weights e^9 to 1: ESS is 1.0 of 2, half of the particles: 0.4 keeps both, 1 the better."""
    worth = {"a;": 9.0, "b;": 0.0}
    script = ScriptedTree(
        lambda text, i: "ab"[i % 2] + ";" if not text else f"{i}.", lambda text: worth.get(text, 0)
    )
    outcome = solve(script, particles=2, ess_threshold=threshold)
    parents = {outcome.steps[step.parent].text[0] for step in outcome.steps[2:]}
    assert parents == followed and outcome.ended == "done"


def test_the_answer_is_the_best_final_particle_and_equal_steps_are_judged_once():
    script = ScriptedTree(lambda text, i: "ab"[i % 2] + ".", {"a.": 1.0, "b.": 2.0}.get)
    outcome = solve(script, particles=6)
    assert outcome.text == "b." and sorted(script.scored) == ["a.", "b."]
    assert [step.visits for step in outcome.steps] == [3, 3]


def test_a_sampled_answer_follows_the_weights():
    """A particle of weight e^-60 is not drawn."""
    script = ScriptedTree(lambda text, i: "ab"[i % 2] + ".", {"a.": 60.0, "b.": 0.0}.get)
    assert solve(script, particles=4, answer="sample").text == "a."


def test_malformed_particles_die_and_their_places_are_taken():
    script = ScriptedTree(
        lambda text, i: ("long;" if i % 2 else "a;") if not text else "end.", lambda text: 0.0
    )
    outcome = solve(script, particles=4, step_tokens=4)
    assert outcome.text == "a;end." and outcome.ended == "done"
