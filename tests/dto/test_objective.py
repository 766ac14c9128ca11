"""The gradient of DESIGN 3.1 against autograd through an explicit one-hot product."""

from __future__ import annotations

import itertools

import pytest
import torch

from nabla_eval.dto.objective import Site, differentiate, row_gradient
from nabla_eval.engine import naive
from nabla_eval.options import Objective
from nabla_eval.testing import tiny_pair, tiny_problems

OBJECTIVES = [
    Objective(lam=lam, nll_weight=weight, reward_gradient=kind)
    for lam, weight, kind in itertools.product(
        [1.0, -2.0, 0.0], [1.0, 1e-3, 0.0], ["final", "process"]
    )
]


def sites(pair, lengths=(5, 1, 9, 12)):
    problems = tiny_problems(pair, len(lengths))
    words = pair.policy.vocabulary
    tokens = [tuple((3 * i + 5 * j) % words for j in range(n)) for i, n in enumerate(lengths)]
    return problems, [
        Site(problem.prompt, problem.affixes, own, len(own) - i % 2)
        for i, (problem, own) in enumerate(zip(problems, tokens, strict=True))
    ]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_equals_autograd_through_one_hot_rows_at_every_position(objective):
    """Of each sequence as it is alone; r(y|x) too, and weights get no gradients."""
    pair = tiny_pair(seed=1, process=objective.reward_gradient == "process")
    problems, batch = sites(pair)
    found = differentiate(pair, batch, objective)
    for problem, site, backward in zip(problems, batch, found, strict=True):
        expected = naive.token_gradient(pair, problem, list(site.tokens), site.scored, objective)
        ours = row_gradient(pair, backward, range(len(site.tokens)), objective)
        assert ours.shape == (len(site.tokens), pair.policy.vocabulary)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)
        y = naive.one_hot(list(site.tokens[: site.scored]), pair.policy.vocabulary)
        assert backward.value == pytest.approx(float(naive.reward_of(pair, problem, y)), abs=1e-12)
        assert not backward.reward[site.scored :].any()
        if not objective.nll_weight:
            assert not backward.policy.any()
    for model in (pair.policy.base, pair.judge.base):
        assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_equals_central_differences():
    """Directional derivatives of L, taken without autograd.

    RMSNorm makes L strongly curved where an embedding is small: the error is 4e-3 of the slope at
    h = 1e-5 and falls as h^2, so 4e-7 at h = 1e-7, where rounding (1e-16 |L| / h) is smaller.
    """
    pair, objective = tiny_pair(seed=2), Objective(lam=1.0, nll_weight=0.5)
    problems, batch = sites(pair)
    generator = torch.Generator().manual_seed(0)
    found = differentiate(pair, batch, objective)
    for problem, site, backward in zip(problems, batch, found, strict=True):
        y = naive.one_hot(list(site.tokens), pair.policy.vocabulary)
        direction = torch.randn(y.shape, generator=generator, dtype=torch.float64)
        h = 1e-7
        with torch.no_grad():
            ends = [
                naive.loss(pair, problem, y + s * h * direction, site.scored, objective)
                for s in (1, -1)
            ]
        slope = float(ends[0] - ends[1]) / (2 * h)
        ours = row_gradient(pair, backward, range(len(site.tokens)), objective)
        assert float((ours * direction).sum()) == pytest.approx(slope, rel=1e-5)
