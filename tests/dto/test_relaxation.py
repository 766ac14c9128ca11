"""Straight-through relaxation and its anchors."""

from __future__ import annotations

import torch
from scipy import stats

from nabla_eval.dto.relaxation import gumbel_offset, hard_tokens, soft_backward
from nabla_eval.randomness import Key, uniforms

TAU = 0.7


def logits(rows=6, words=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(rows, words, generator=generator, dtype=torch.float64)


def numbers(rows, words, name="u"):
    return torch.from_numpy(uniforms([Key.root(0) / name / i for i in range(rows)], 0, words))


def test_soft_backward_is_autograd_of_the_straight_through_estimator():
    z, g = logits().requires_grad_(), logits(seed=1)
    p = torch.softmax(z / TAU, -1)
    y = torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]) + p - p.detach()
    (expected,) = torch.autograd.grad((y * g).sum(), z)
    torch.testing.assert_close(soft_backward(z.detach(), g, TAU), expected, rtol=0, atol=1e-14)


def test_an_anchored_hard_token_starts_at_the_sampled_one():
    z = logits()
    for token in range(z.shape[-1]):
        tokens = torch.full((len(z),), token)
        offset = gumbel_offset(z / TAU, tokens, numbers(*z.shape))
        assert (hard_tokens(z, offset, TAU) == tokens).all()


def test_anchor_argmax_is_the_paper_read_literally():
    z = logits()
    assert (hard_tokens(z, None, TAU) == z.argmax(-1)).all()


def test_conditioned_gumbels_are_gumbels_when_the_condition_is_averaged_out():
    """Draw y from softmax, then noise given y: the noise must be unconditional Gumbel(0, 1) again.

    20,000 rows, one Kolmogorov-Smirnov test per token with p < 1e-4 / 5 as failure: the suite
    fails by chance with probability at most 1e-4 (and the keys are fixed, so it does not at all).
    """
    rows, words = 20_000, 5
    z = logits(1, words).expand(rows, words)
    p = torch.softmax(z, -1)
    draws = numbers(rows, 1, "draw")[:, 0]
    tokens = torch.searchsorted(p.cumsum(-1).contiguous(), draws[:, None].contiguous())[:, 0]
    noise = gumbel_offset(z, tokens, numbers(rows, words))
    assert ((z + noise).argmax(-1) == tokens).all()
    for word in range(words):
        assert stats.kstest(noise[:, word].numpy(), stats.gumbel_r.cdf).pvalue > 1e-4 / words
    correlation = torch.corrcoef(noise.T) - torch.eye(words)
    assert correlation.abs().max() < 5 / rows**0.5
