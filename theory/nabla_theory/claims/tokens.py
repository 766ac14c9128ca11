"""Proposition C.1, section C.3 and the straight-through estimator, on random transformers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from nabla_theory import gradients, noise, reach
from nabla_theory.checks import Check, Context, at_least, at_most, close

ROUNDING = "rounding: about 1e4 operations on numbers of size 10"
PROCESS = {"outcome": False, "process": True}
LANES = 8


def proposition_c1(context: Context) -> list[Check]:
    """∂L/∂y is the sum of the prefix, postfix and reward terms."""
    rows = []
    for kind, process in PROCESS.items():
        pair, y = gradients.random_pair(context.seed, process=process)
        terms = gradients.proposition_c1(pair, y)
        truth = gradients.backpropagated(pair, y)
        found = {
            "autograd": ("one backward pass", truth, 1e-11, ROUNDING),
            "embeddings": (
                "passes to the input embeddings (E_π ∂L/∂e + E_r ∂L/∂e' - log π)",
                gradients.through_embeddings(pair, y),
                1e-11,
                ROUNDING,
            ),
            "differences": (
                "central differences of fourth order",
                gradients.finite_differences(pair, y),
                1e-9,
                "ε L / width = 2e-16 · 30 / 1e-4, and width⁴ times the fifth derivative",
            ),
        }
        rows += [
            close(
                f"proposition_c1/{name}[{kind}]",
                f"prefix + postfix + reward terms (Prop. C.1) equal {other}: largest difference",
                0.0,
                float((terms.total - gradient).abs().max()),
                tolerance,
                why,
            )
            for name, (other, gradient, tolerance, why) in found.items()
        ]
    rows.append(_causality(context))
    return rows


def _causality(context: Context) -> Check:
    """What is exact about reuse: ∂L/∂y_l sees later tokens only through terms i > l, e ≥ l."""
    pair, y = gradients.random_pair(context.seed, process=True)
    policy, reward = gradients.jacobians(pair, y)
    length = len(y)
    forbidden = max(
        float(policy[i, :, at].abs().max()) for i in range(length) for at in range(i, length)
    )
    beyond = [(e, at) for e, end in enumerate(pair.ends) for at in range(end + 1, length)]
    forbidden = max(forbidden, *(float(reward[e, at].abs().max()) for e, at in beyond))
    return close(
        "proposition_c1/causality",
        "∂ log π_i/∂y_l = 0 for l ≥ i and ∂r_e/∂y_l = 0 for l > e",
        0.0,
        forbidden,
        0.0,
        "masked attention: no path, so exactly 0",
    )


def printed_gradients(context: Context) -> list[Check]:
    """The gradients as printed differ from the true one by a term of its own size."""
    pair, y = gradients.random_pair(context.seed)
    truth = gradients.backpropagated(pair, y)
    terms = gradients.proposition_c1(pair, y)
    policy, _ = gradients.jacobians(pair, y)
    postfix = {
        "eq_5": ("y for y_i in Eq. 5, read as Σ_j y_j", gradients.bare_postfix(policy, y)),
        "eq_14": ("y_{l,v} for y_{i,v} in Eq. 14", gradients.printed_entries(policy, y)),
        "eq_15": ("y_l for y_i in Eq. 15", gradients.printed_postfix(policy, y)),
    }
    turned = gradients.printed_reward(terms)
    why = "10⁶ times the error of the correct formula (1e-11); measured relative to max |∂L/∂y|"
    rows = [
        at_least(
            f"printed_gradients/{name}",
            f"with {slip} it is another vector",
            1e-5,
            float((printed - terms.postfix).abs().max() / truth.abs().max()),
            why,
        )
        for name, (slip, printed) in postfix.items()
    ]
    return [
        *rows,
        close(
            "printed_gradients/eq_14_15",
            "Eq. 14 and 15 slip alike: the entries of the one are the vector of the other",
            0.0,
            float((postfix["eq_14"][1] - postfix["eq_15"][1]).abs().max()),
            1e-11,
            ROUNDING,
        ),
        close(
            "printed_gradients/eq_15_last",
            "... and are right at the last token, which has no postfix term",
            0.0,
            float((postfix["eq_15"][1] - terms.postfix)[-1].abs().max()),
            1e-11,
            ROUNDING,
        ),
        close(
            "printed_gradients/eq_11",
            "Eq. 11 (δ_reward) loses the minus of -∂r: off by twice the reward term, no more",
            0.0,
            float((turned - truth + 2 * terms.reward).abs().max()),
            1e-11,
            ROUNDING,
        ),
        at_most(
            "printed_gradients/eq_11_descends",
            "... so its reward part leads down the reward: slope of r along it, over |∂r/∂y|²",
            -0.999 * pair.lam,
            _slope_of_reward(pair, y, terms.prefix + terms.postfix - turned),
            "it is -λ; central difference of width 1e-5",
        ),
    ]


def _slope_of_reward(pair: gradients.Pair, y: torch.Tensor, step: torch.Tensor) -> float:
    """The derivative of r along `step`, over |∂r/∂y|², by a central difference."""
    slope = gradients.backpropagated(replace(pair, lam=-1.0), y)
    slope = slope - gradients.backpropagated(replace(pair, lam=0.0), y)  # ∂r/∂y
    width = 1e-5
    change = pair.rewards(y + width * step).sum() - pair.rewards(y - width * step).sum()
    return float(change / (2 * width) / slope.square().sum())


def gradient_bound(context: Context) -> list[Check]:
    """C.3: |∂L/∂z_j| ≤ p_j range(∂L/∂p), and sharper with (1 - p_j)."""
    draw = noise.generator(context.seed, "c3")
    sharpness = np.exp(draw.uniform(-2, 3, size=(4000, 1)))
    logits = torch.from_numpy(sharpness * draw.standard_normal((4000, 16)))
    g = torch.from_numpy(draw.standard_normal((4000, 16)) * 10)
    rows = []
    p = torch.softmax(logits / 0.5, dim=-1)
    z = logits.clone().requires_grad_()
    (auto,) = torch.autograd.grad((torch.softmax(z / 0.5, dim=-1) * g).sum(), z)
    gradient = reach.softmax_backward(p, g, 0.5)
    rows.append(
        close(
            "gradient_bound/backward",
            "∂L/∂z = (diag(p) - ppᵀ)g/τ against automatic differentiation",
            0.0,
            float((auto - gradient).abs().max()),
            1e-11,
            "rounding of sums of 16 terms of size 100",
        )
    )
    tiny = 1e-12 * reach.gradient_range(g)  # rounding of p - p² near a vertex
    bounds = {
        "c3": ("p_j · range(∂L/∂p)/τ (C.3)", reach.gradient_bound),
        "sharp": ("p_j(1 - p_j) · range(∂L/∂p)/τ (ours)", reach.sharp_gradient_bound),
    }
    for name, (formula, bound) in bounds.items():
        excess = float((gradient.abs() - bound(p, g, 0.5) - tiny).max())
        rows.append(
            at_most(
                f"gradient_bound/{name}",
                f"|∂L/∂z_j| ≤ {formula}: largest excess over 64,000 logits",
                0.0,
                excess,
                "a theorem; 1e-12 of the range for rounding is inside",
            )
        )
    top = p.amax(-1) > 0.999
    p2, g2 = torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[3.0, -1.0]]).double()
    tight = reach.softmax_backward(p2, g2, 0.5).abs() / reach.sharp_gradient_bound(p2, g2, 0.5)
    rows += [
        close(
            "gradient_bound/tight",
            "the sharp bound is reached with two tokens",
            1.0,
            float(tight.min()),
            1e-12,
            "an equality, rounding",
        ),
        at_most(
            "gradient_bound/confident",
            f"where max p > 0.999 ({int(top.sum())} rows) no logit feels over 0.001·range/τ",
            0.001,
            float((gradient[top].abs() / reach.gradient_range(g[top]) * 0.5).max()),
            "p_j(1 - p_j) < 0.001 for every token there, the top one included",
        ),
    ]
    return rows


def straight_through(context: Context) -> list[Check]:
    """Straight-through is exact where L is linear in the token, and only there."""
    straight, truth = [], []
    for lane in range(LANES):
        pair, y = gradients.random_pair(1000 * context.seed + lane)
        p = torch.softmax(pair.log_policy(y).detach(), dim=-1)
        g = gradients.backpropagated(pair, y)
        straight.append(reach.softmax_backward(p, g, 1.0))
        truth.append(reach.softmax_backward(p, gradients.swapped_losses(pair, y), 1.0))
    ours, exact = torch.stack(straight), torch.stack(truth)  # [LANES, L, V]
    likelihood = replace(pair, lam=0.0)
    g = gradients.backpropagated(likelihood, y)
    swapped = gradients.swapped_losses(likelihood, y)
    linear = reach.softmax_backward(p, g, 1.0)[-1] - reach.softmax_backward(p, swapped, 1.0)[-1]
    cosine = torch.cosine_similarity(ours, exact, dim=-1)
    best = (ours.argmin(-1) == exact.argmin(-1)).double().mean()
    return [
        close(
            "straight_through/linear",
            "the last token with λ = 0 enters L linearly: the straight-through gradient is that of "
            "E_{y_l ~ p}[L]",
            0.0,
            float(linear.abs().max()),
            1e-11,
            ROUNDING,
        ),
        at_least(
            "straight_through/curved",
            f"elsewhere it is another vector: over {cosine.numel()} tokens of random pairs the "
            f"cosine is {float(cosine.mean()):.2f} on average (lowest {float(cosine.min()):.2f}), "
            f"and the most favoured token the same in {float(best):.0%}; largest difference, "
            "relative",
            1e-5,
            float((ours - exact).abs().max() / exact.abs().max()),
            "10⁶ times the error where both are equal (1e-11)",
        ),
    ]
