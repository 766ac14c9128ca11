"""Adam's bound on the length of a refinement, and DTO-like updates held against it."""

from __future__ import annotations

import numpy as np
import torch

from nabla_theory import gradients, noise, reach
from nabla_theory.checks import Check, Context, at_least, at_most, close


def adam_reach(context: Context) -> list[Check]:
    """Adam's step is at most lr·R_t, whatever the gradients."""
    steps, draw = 20, noise.generator(context.seed, "adam")
    rates = reach.cosine_rates(0.01, 0.001, steps)
    b1, b2 = reach.BETAS
    shrink = [(b1 / b2) ** (steps - s) for s in range(1, steps + 1)]  # g_s ∝ a_s/b_s
    last = reach.adam_path(np.array([shrink]), [1.0] * steps)[0]
    scales = 10.0 ** draw.uniform(-6, 6, size=(20000, 1)) * np.exp(
        draw.uniform(0, 3, size=(20000, 1)) * draw.standard_normal((20000, steps))
    )
    signs = np.where(draw.random((20000, steps)) < draw.random((20000, 1)), -1, 1)
    wild = np.abs(reach.adam_path(scales * signs, rates)).max()
    constant = float(-reach.adam_path(np.ones((1, steps)), rates)[0, -1])
    bound = reach.logit_reach(rates)
    weight = torch.zeros(1, dtype=noise.DTYPE, requires_grad=True)
    solver = torch.optim.AdamW([weight], lr=0.01, weight_decay=0.0, eps=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps, eta_min=0.001)
    for g in scales[0] * signs[0]:
        weight.grad = torch.tensor([g], dtype=noise.DTYPE)
        solver.step()
        schedule.step()
    ours = reach.adam_path((scales * signs)[:1], rates)[0, -1]
    return [
        close(
            "adam_reach/same_adam",
            "our Adam with cosine rates is torch's AdamW (ε = 0), after 20 steps",
            weight.item(),
            float(ours),
            1e-12,
            "rounding",
        ),
        close(
            "adam_reach/tight",
            "R_20 is reached by g_s ∝ (β₁/β₂)^(20-s): last step over lr",
            reach.adam_ratio(steps),
            float(abs(last[-1] - last[-2])),
            1e-12,
            "equality in Cauchy-Schwarz, rounding",
        ),
        at_most(
            "adam_reach/random",
            "Σ lr_t R_t bounds |Δz| over 20,000 wild gradient sequences (lr 0.01 → 0.001, T = 20)",
            bound,
            float(wild),
            "a theorem; rounding",
            tolerance=1e-12,
        ),
        close(
            "adam_reach/constant",
            "a gradient of constant sign and size moves Σ lr_t, close to the bound",
            sum(rates),
            constant,
            1e-12,
            "closed form: m̂/√v̂ = 1",
        ),
    ]


def dto_reach(context: Context) -> list[Check]:
    """DTO-like updates stay within the reach, and so does what they do to the next token."""
    temperature, results, scales = 0.5, [], (1.0, 1e3)
    rates = reach.cosine_rates(0.01, 0.001, 20)
    bound = reach.logit_reach(rates)
    for lane in range(4):
        for scale in scales:
            seed = 1000 * context.seed + lane
            pair, y = gradients.random_pair(seed, length=6, vocabulary=12, process=lane % 2 == 1)
            logits = 0.5 * pair.log_policy(y).detach()
            results.append(
                reach.refine(pair, logits, temperature=temperature, gradient_scale=scale)
            )
    moved = max(max(result.largest) for result in results)
    before = [torch.softmax(result.before / temperature, -1) for result in results]
    after = [torch.softmax(result.after / temperature, -1) for result in results]
    variation = max(
        float((p - q).abs().sum(-1).max() / 2) for p, q in zip(before, after, strict=True)
    )
    odds = max(
        float((torch.logit(q) - torch.logit(p)).abs().max())
        for p, q in zip(before, after, strict=True)
    )
    scale_effect = max(
        abs(a.largest[-1] - b.largest[-1]) for a, b in zip(results[::2], results[1::2], strict=True)
    )
    flipped = [_gap_of_flips(result) for result in results]
    theorem = "a theorem; rounding"
    return [
        at_most(
            "dto_reach/logits",
            "|Δz_j| ≤ B = Σ lr_t R_t over 8 runs of 20 AdamW steps (lr 0.01 → 0.001)",
            bound,
            moved,
            theorem,
            tolerance=1e-12,
        ),
        at_least(
            "dto_reach/tight",
            "... and comes within 10 % of Σ lr_t: the bound is not idle",
            0.9 * sum(rates),
            moved,
            "one logit whose gradient keeps its sign moves about Σ lr_t",
        ),
        at_most(
            "dto_reach/total_variation",
            "total variation of the next-token distribution ≤ tanh(B/2τ), τ = 0.5",
            reach.total_variation_bound(bound, temperature),
            variation,
            theorem,
            tolerance=1e-12,
        ),
        at_most(
            "dto_reach/log_odds",
            "log-odds of any token move by ≤ 2B/τ",
            2 * bound / temperature,
            odds,
            theorem,
            tolerance=1e-10,
        ),
        at_most(
            "dto_reach/flips",
            "the argmax flips only where the two top logits were ≤ 2B apart: largest gap flipped",
            2 * bound,
            max(flipped),
            theorem,
        ),
        at_most(
            "dto_reach/scale_free",
            "1000 times the loss moves the logits by the same: difference of max |Δz|",
            0.01 * bound,
            scale_effect,
            "Adam's ε = 1e-8 against gradients ≥ 1e-4: under 1 %; flips may differ in ties",
        ),
        _confident_token(),
    ]


def _gap_of_flips(result: reach.Refinement) -> float:
    top = result.before.topk(2, dim=-1).values
    flipped = result.before.argmax(-1) != result.after.argmax(-1)
    gaps = (top[:, 0] - top[:, 1])[flipped]
    return float(gaps.max()) if len(gaps) else 0.0


def _confident_token() -> Check:
    """C.3's small gradient does not keep Adam from moving a confident token's logit."""
    rates = reach.cosine_rates(0.01, 0.001, 20)
    z = torch.tensor([[7.0, 0.0, 0.0]], dtype=noise.DTYPE, requires_grad=True)
    solver = torch.optim.AdamW([z], lr=0.01, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, 20, eta_min=0.001)
    g = torch.tensor([[1.0, -1.0, 0.0]], dtype=noise.DTYPE)
    for _ in range(20):
        solver.zero_grad()
        (torch.softmax(z / 0.5, dim=-1) * g).sum().backward()
        solver.step()
        schedule.step()
    return at_least(
        "dto_reach/confident",
        "a token of p = 1 - 2e-6 moves by Σ lr_t as well: Adam undoes C.3's damping",
        0.995 * sum(rates),
        7.0 - z[0, 0].item(),
        "ratio ≥ |g|/(|g| + ε) with |g| ≥ 3e-6 and ε = 1e-8; a growing gradient only adds",
    )
