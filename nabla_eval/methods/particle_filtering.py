"""Particle filtering over the steps of a response (Puri et al. 2025, arXiv 2502.01618)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np

from nabla_eval.methods.limit import unless_cut
from nabla_eval.methods.search import Node, StepSearch, Tree
from nabla_eval.protocol import Method, Part, Problem
from nabla_eval.randomness import Key
from nabla_eval.validation import Count, Probability, Scale


@dataclass(frozen=True, kw_only=True)
class ParticleFiltering(StepSearch):
    """Options of particle filtering.

    A particle is a partial response, and the logarithm of its weight is its value over
    `weight_temperature`: rewards are logits, so with the defaults a step's weight is the odds
    P / (1 - P) of its process reward, as in Puri et al. They resample by multinomial draws after
    every step but the last, and answer with the particle of the greatest final weight (defaults of
    Red-Hat-AI-Innovation-Team/its_hub); they sample responses at temperature 0.8.
    """

    particles: Count = 8
    weight_temperature: Scale = 1.0
    resampling: Literal["multinomial", "systematic"] = "multinomial"
    # Resample where the effective sample size is at most this share of the particles; else weights
    # multiply on. 1: after every step.
    ess_threshold: Probability = 1.0
    answer: Literal["best", "sample"] = "best"  # the particle of the best value, or one by weight

    @property
    def idle(self) -> str | None:
        if self.particles == 1:
            return "particles=1 is one sample, there is nothing to choose from"
        return super().idle


def particle_filtering(problem: Problem, config: ParticleFiltering) -> Method:
    """Their Algorithm 1: all particles take a step, then are drawn again in proportion to weight.

    Weighted particles estimate expectations under p(y) prod_t w(y_1..t), p being the policy, and
    the product of the mean weights its constant without bias. Complete responses stay particles:
    they are weighed again, by their last value, until all are complete. What max_calls cuts short
    is answered like other searches, by the best complete response so far.
    """
    run = ParticleFilter(problem, config)
    ended = yield from unless_cut(run.run())
    return run.tree.outcome(run.chosen() if ended == "done" else run.tree.best(), ended)


class ParticleFilter:
    """The particles of one problem and the logarithms of their weights."""

    def __init__(self, problem: Problem, config: ParticleFiltering) -> None:
        self.config, self.key = config, problem.key
        self.tree = Tree(problem, config.step_end, config.sampling, config.depth)
        self.particles = [self.tree.root] * config.particles
        self.log_weights = [0.0] * config.particles

    def run(self) -> Part:
        """Step and weigh until no particle can go on."""
        for level in count():
            yield from self.step(level)
            if not any(node.open for node in self.particles):
                return "done"
            self.resample(self.key / "resample" / level)

    def step(self, level: int) -> Part:
        """Write the next step of every particle that is not complete, and weigh all."""
        going = [i for i, node in enumerate(self.particles) if node.open]
        reached = yield from self.tree.extend(
            [self.particles[i] for i in going],
            [self.key / "particle" / i / level for i in going],
        )
        yield from self.tree.judge_new(reached, self.config)
        for i, node in zip(going, reached, strict=True):
            self.particles[i] = node
            node.visits += 1
        for i, node in enumerate(self.particles):
            self.log_weights[i] += self.log_weight(node)

    def log_weight(self, node: Node) -> float:
        """The logarithm of a particle's weight at this step; malformed ones have none."""
        if node.note or node.value is None:
            return -math.inf
        return node.value / self.config.weight_temperature

    def resample(self, key: Key) -> None:
        """Draw the particles anew by weight, where their effective sample size calls for it."""
        weights = softmax(self.log_weights)
        size = len(weights)
        # That of equal weights may round to above N.
        most = self.config.ess_threshold * size * (1 + 1e-9)
        if not weights.any() or 1 / np.square(weights).sum() > most:
            return
        chosen = ancestors(self.config.resampling, weights, key.uniforms(0, size))
        self.particles = [self.particles[i] for i in chosen]
        self.log_weights = [0.0] * size

    def chosen(self) -> Node:
        """The answer's particle: complete before malformed."""
        if self.config.answer == "sample" and (weights := softmax(self.log_weights)).any():
            uniform = (self.key / "answer").uniforms(0, 1)
            return self.particles[ancestors("multinomial", weights, uniform)[0]]
        return max(self.particles, key=lambda node: (node.finished, node.value or 0.0))


def softmax(log_weights: Sequence[float]) -> np.ndarray:
    """Weights that sum to 1; all 0 where no particle has any."""
    top = max(log_weights)
    if top == -math.inf:
        return np.zeros(len(log_weights))
    weights = np.exp(np.asarray(log_weights) - top)
    return weights / weights.sum()


def ancestors(rule: str, weights: np.ndarray, uniforms: np.ndarray) -> list[int]:
    """Indices drawn in proportion to weights, one a uniform number: E[copies of i] = N w_i.

    multinomial draws each on its own; systematic takes N points of one grid, shifted by the first
    uniform number, so that a particle gets the integer below or above N w_i (Douc and Cappe 2005).
    """
    points = uniforms
    if rule == "systematic":
        points = (np.arange(len(uniforms)) + uniforms[0]) / len(uniforms)
    edges = np.cumsum(weights)
    points = np.minimum(points, np.nextafter(1.0, 0.0))  # a grid's last point may round to 1
    return np.searchsorted(edges / edges[-1], points, side="right").tolist()
