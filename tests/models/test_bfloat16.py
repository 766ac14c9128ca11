"""bfloat16 models: softmaxes and sums in float32, results near those of the float32 models."""

from __future__ import annotations

import torch

import nabla_eval as ne
from nabla_eval.dto.objective import Site, differentiate, row_gradient
from nabla_eval.engine.rollout import statistics
from nabla_eval.options import Objective

TEXT, RESPONSE = "3,1,4=8?", "3+1=4;4*2=8"


def test_gradients_and_refined_logits_are_float32_finite_and_close() -> None:
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        pair = ne.load_pair(dtype=dtype, device="cpu")
        assert pair.policy.embedding.dtype == pair.judge.embedding.dtype == dtype
        prompt = pair.policy.encode(TEXT)
        tokens = pair.policy.encode(RESPONSE, special=False)
        affixes = pair.judge.affixes([{"role": "user", "content": TEXT}])
        site, objective = Site(prompt, affixes, tokens, len(tokens)), Objective(nll_weight=0.1)
        (backward,) = differentiate(pair, [site], objective)
        gradient = row_gradient(pair, backward, range(len(tokens)), objective)
        logits = ne.refine(pair, prompt, tokens, committed=2, lr=0.1, update="all").logits
        found.append((gradient, backward.value, logits))
    (coarse, value, refined), (fine, expected, exact) = found
    for tensor in (coarse, refined):
        assert tensor.dtype == torch.float32 and bool(tensor.isfinite().all())
    # bfloat16 keeps 8 bits: 0.4 % a rounding. Two models of four layers round some ten times a
    # layer, up or down: the square root of 90 such steps, 4 %. Kernels differ in what they round.
    assert torch.nn.functional.cosine_similarity(coarse, fine, dim=-1).min() > 0.98
    assert abs(value - expected) < 0.04 * max(1.0, abs(expected))
    assert float((refined.softmax(-1) - exact.softmax(-1)).abs().sum(-1).max()) < 0.3


def test_statistics_of_bfloat16_logits_are_float32() -> None:
    logits = torch.linspace(-30, 30, 4096).repeat(2, 1).to(torch.bfloat16)
    known = statistics(logits, torch.tensor([0, 4095]))
    exact = statistics(logits.float(), torch.tensor([0, 4095]))
    for name, value in known.items():
        torch.testing.assert_close(value, exact[name])
