"""Figures on tokens and baselines: how far DTO reaches, and rejection without a gradient."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from nabla_theory import discrete, gradients, reach, rejection
from nabla_theory.checks import Context
from nabla_theory.claims import laws
from nabla_theory.plotting import BLACK, BLUE, GREEN, PURPLE, RED, SKY, canvas


def dto_reach(context: Context) -> Figure:
    """Plot how far 20 Adam steps can move the next-token distribution."""
    rates = np.geomspace(1e-3, 1.0, 60)
    figure, (ax,) = canvas(width=7.0)
    for temperature, colour, style in ((1.0, BLUE, "-"), (0.5, RED, "--")):
        bounds = [
            reach.total_variation_bound(
                reach.logit_reach(reach.cosine_rates(lr, lr / 10, 20)), temperature
            )
            for lr in rates
        ]
        ax.plot(rates, bounds, color=colour, ls=style, lw=2, label=f"bound, τ = {temperature:g}")
    for lr in (0.003, 0.01, 0.03, 0.1, 0.3):
        worst = 0.0
        for lane in range(3):
            pair, y = gradients.random_pair(context.seed + lane, length=6, vocabulary=12)
            logits = 0.5 * pair.log_policy(y).detach()
            run = reach.refine(pair, logits, lr=lr, min_lr=lr / 10)
            p, q = (torch.softmax(z / 0.5, -1) for z in (run.before, run.after))
            worst = max(worst, float((p - q).abs().sum(-1).max() / 2))
        ax.plot(
            lr,
            worst,
            "^",
            color=RED,
            label="DTO on a random pair, τ = 0.5" if lr == 0.003 else None,
        )
    ax.axvline(0.01, color=BLACK, ls=":", lw=1.2)
    ax.annotate("the paper's lr", (0.0105, 0.012), fontsize=9)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="initial learning rate (cosine to a tenth, T = 20)",
        ylabel="total variation of the next-token law",
        title="What Adam lets DTO do, whatever the reward",
    )
    ax.legend(frameon=False, fontsize=9)
    return figure


def rejection_baselines(context: Context) -> Figure:
    """Rejection rates of loops without a gradient."""
    counts = np.arange(2, 17)
    figure, (ax,) = canvas(width=7.0)
    ax.plot(
        counts,
        [float(rejection.rejection_rate(int(n))) for n in counts],
        "o-",
        color=BLUE,
        ms=4,
        label="1 - H_N/N (first draw counted)",
    )
    ax.plot(
        counts,
        [float(rejection.challenger_rejection_rate(int(n))) for n in counts],
        "s-",
        color=SKY,
        ms=4,
        label="1 - (H_N - 1)/(N - 1) (challengers)",
    )
    shared = [
        1
        - rejection.simulated_acceptances(8000, int(n) - 1, 60, True, context.seed).mean() / (n - 1)
        for n in counts
    ]
    ax.plot(
        counts, shared, "^--", color=GREEN, ms=5, label="challengers share a prefix, additive r"
    )
    doubling = [
        1 - float(rejection.improving_records([2**k for k in range(int(n))]) - 1) / (n - 1)
        for n in counts
    ]
    ax.plot(counts, doubling, "d-.", color=RED, ms=4, label="challenger k the best of 2^k")
    ax.plot(8, 0.66, "*", color=BLACK, ms=11, label="Table 4's baseline, 66 %")
    ax.set(
        xlabel="N", ylabel="share rejected", ylim=(0.1, 0.9), title="Rejection without any gradient"
    )
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def output_law(context: Context) -> Figure:
    """Exact laws of Algorithm 1 and of best-of-N under the frontier of E[r] against KL."""
    responses = laws.responses_of(context.seed)
    pi, found = np.exp(responses.log_policy), laws.sweep(responses)
    figure, axes = canvas(2, width=11.5, height=4.4)
    spent = np.linspace(0, 3.0, 120)
    most = [discrete.frontier(responses, float(kl)) for kl in spent]
    axes[0].plot(spent, most, color=BLACK, lw=1.6, label="π exp(λr)/Z over λ: the frontier")
    best = [discrete.best_of_n(responses, n) for n in (1, 2, 4, 8, 16)]
    paths = {
        "best of 1, 2, 4, 8, 16": (best, GREEN, "o"),
        "no gradient, N = 1..8": (found[0.0, 0, 0.01], SKY, "s"),
        "lr 0.01, T = 20, λ = 4": (found[4.0, 20, 0.01], BLUE, "x"),
        "lr 0.1, T = 20, λ = 4": (found[4.0, 20, 0.1], PURPLE, "d"),
        "lr 0.3, T = 20, λ = 4": (found[4.0, 20, 0.3], RED, "^"),
    }
    for label, (path, colour, marker) in paths.items():
        kl = [discrete.divergence(law, pi) for law in path]
        reward = [float(law @ responses.reward) for law in path]
        axes[0].plot(kl, reward, marker=marker, color=colour, lw=1.0, ms=5, label=label)
    axes[0].set(xlabel="KL(p‖π)   [nats]", ylabel="E[r]", title="What the response's law gains")
    lams = np.geomspace(0.1, 10, 60)
    stars = [discrete.gibbs(responses, float(lam))[0] for lam in lams]
    for label, (path, colour, _) in list(paths.items())[1:]:
        away = [discrete.divergence(path[-1], star) for star in stars]
        axes[1].plot(lams, away, color=colour, lw=1.8, label=label.replace("N = 1..8", "N = 8"))
    axes[1].set(xscale="log", yscale="log", xlabel="λ' of ρ* = π exp(λ'r)/Z")
    axes[1].set(ylabel="KL(p‖ρ*)   [nats]", title="No λ' makes it ρ*: N = 8")
    for ax in axes:
        ax.legend(frameon=False, fontsize=8)
    return figure
