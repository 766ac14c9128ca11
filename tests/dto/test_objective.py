"""The gradient of DESIGN 3.1 against autograd through an explicit one-hot product."""

from __future__ import annotations

import itertools

import pytest
import torch

from nabla_eval.dto.objective import Site, differentiate, row_gradient, spans
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
        Site(problem.prompt, problem.frame, own, len(own) - i % 2)
        for i, (problem, own) in enumerate(zip(problems, tokens, strict=True))
    ]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_equals_autograd_through_one_hot_rows_at_every_position(objective):
    pair = tiny_pair(seed=1)
    problems, batch = sites(pair)
    for problem, site, backward in zip(
        problems, batch, differentiate(pair, batch, objective), strict=True
    ):
        expected = naive.token_gradient(pair, problem, list(site.tokens), site.scored, objective)
        ours = row_gradient(pair, backward, range(len(site.tokens)), objective)
        assert ours.shape == (len(site.tokens), pair.policy.vocabulary)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


def test_equals_central_differences():
    """Directional derivatives of L, taken without autograd.

    RMSNorm makes L strongly curved where an embedding is small: the error is 4e-3 of the slope at
    h = 1e-5 and falls as h^2, so 4e-7 at h = 1e-7, where rounding (1e-16 |L| / h) is smaller.
    """
    pair, objective = tiny_pair(seed=2), Objective(lam=1.0, nll_weight=0.5)
    problems, batch = sites(pair)
    generator = torch.Generator().manual_seed(0)
    for problem, site, backward in zip(
        problems, batch, differentiate(pair, batch, objective), strict=True
    ):
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


def test_sequences_of_a_batch_do_not_influence_each_other():
    pair, objective = tiny_pair(), Objective()
    _, batch = sites(pair)
    together = differentiate(pair, batch, objective)
    for site, backward in zip(batch, together, strict=True):
        (alone,) = differentiate(pair, [site], objective)
        torch.testing.assert_close(backward.policy, alone.policy, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(backward.reward, alone.reward, rtol=1e-12, atol=1e-12)
        assert backward.value == pytest.approx(alone.value, abs=1e-12)


def test_rewards_are_those_of_the_whole_model():
    """r(y|x) read off our split base and head is transformers' own logit of the last token."""
    pair = tiny_pair(process=False)
    problems, batch = sites(pair)
    for problem, site, backward in zip(
        problems, batch, differentiate(pair, batch, Objective()), strict=True
    ):
        y = naive.one_hot(list(site.tokens[: site.scored]), pair.policy.vocabulary)
        assert backward.value == pytest.approx(float(naive.reward_of(pair, problem, y)), abs=1e-12)


def test_the_last_position_has_no_postfix_term_and_unscored_tokens_no_reward_term():
    pair, objective = tiny_pair(), Objective(nll_weight=0.0)
    _, batch = sites(pair)
    for site, backward in zip(batch, differentiate(pair, batch, objective), strict=True):
        assert not backward.policy.any()
        assert not backward.reward[site.scored :].any()
        assert backward.reward[: site.scored].any() or site.scored == 0


def test_weights_never_get_gradients():
    pair = tiny_pair()
    _, batch = sites(pair)
    differentiate(pair, batch, Objective())
    for model in (pair.policy.base, pair.judge.base):
        assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_rows_become_slices_of_neighbours():
    assert spans([]) == []
    assert spans([3, 4, 5, 1, 2, 2]) == [slice(3, 6), slice(1, 3), slice(2, 3)]
    table = torch.arange(8)
    rows = [7, 0, 1, 4]
    assert torch.equal(torch.cat([table[span] for span in spans(rows)]), table[rows])
