"""Proposition C.1 and section C.3, on random transformers; Adam's bound and DTO-like updates."""

from __future__ import annotations

import numpy as np
import torch

from theory import gradients, noise, reach
from theory.checks import Check, Context, at_least, at_most, close

ROUNDING = "rounding: about 1e4 operations on numbers of size 10"
PROCESS = {"outcome": False, "process": True}


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
    swapped = terms._replace(postfix=gradients.printed_postfix(policy, y)).total
    lost = gradients.printed_likelihood(terms)
    why = "10⁶ times the error of the correct formula (1e-11); measured relative to max |∂L/∂y|"

    def relative(gradient: torch.Tensor) -> float:
        return float((gradient - truth).abs().max() / truth.abs().max())

    last = float((swapped - truth)[-1].abs().max() / truth.abs().max())
    return [
        at_least(
            "printed_gradients/eq_5_15",
            "with y_l for y_i in the postfix sum (Eq. 5 and 15 as printed) it is another vector",
            1e-5,
            relative(swapped),
            why,
        ),
        close(
            "printed_gradients/eq_5_15_last",
            "... except at the last token, which has no postfix term",
            0.0,
            last,
            1e-11,
            ROUNDING,
        ),
        at_least(
            "printed_gradients/eq_11",
            "without the minus of -log π (Eq. 11 as printed) it is another vector",
            1e-5,
            relative(lost),
            why,
        ),
        close(
            "printed_gradients/eq_11_difference",
            "... off by exactly twice the prefix and postfix terms",
            0.0,
            float((lost - truth + 2 * (terms.prefix + terms.postfix)).abs().max()),
            1e-11,
            ROUNDING,
        ),
    ]


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
