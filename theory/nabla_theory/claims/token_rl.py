"""KL-regularised reinforcement learning over enumerable responses: Theorem 4.1's other side."""

from __future__ import annotations

import numpy as np
import torch

from nabla_theory import discrete, noise
from nabla_theory.checks import Check, Context, at_most, close
from nabla_theory.claims.laws import SUM, responses_of
from nabla_theory.discrete import Array, Responses


def discrete_rl(context: Context) -> list[Check]:
    """KL-regularised RL over tokens reaches π e^{λr}/Z, by four ways."""
    responses, lam = responses_of(context.seed), 2.0
    star, log_z = discrete.gibbs(responses, lam)
    start = discrete.divergence(np.exp(responses.log_policy), star)
    logs, rate, path = responses.log_policy, 0.3, []
    for step in range(1, 41):
        gain = lam * responses.reward - (logs - responses.log_policy)  # the advantage of a sample
        logs = torch.log_softmax(torch.from_numpy(logs + rate * gain), 0).numpy()
        partial, _ = discrete.gibbs(responses, lam * (1 - (1 - rate) ** step))
        path.append(float(np.abs(np.exp(logs) - partial).max()))
    soft = soft_values(responses, lam)
    reached, energy = token_policy_gradient(responses, lam)
    expected, exact = score_function(responses, lam, context)
    return [
        close(
            "discrete_rl/mirror_descent",
            "mirror descent, log p ← log p + η(λr - log p/π), is at π e^{sλr}/Z_s after n steps, "
            "s = 1 - (1 - η)^n: largest difference over 40 steps",
            0.0,
            max(path),
            1e-12,
            SUM,
        ),
        close(
            "discrete_rl/bellman",
            "token by token, π(v|y_<i) e^{V(y_<i v) - V(y_<i)} with V = log E_π e^{λr} gives ρ*: "
            "largest difference",
            0.0,
            float(np.abs(soft - star).max()),
            1e-13,
            SUM,
        ),
        close(
            "discrete_rl/policy_gradient",
            "an autoregressive softmax policy by policy gradient (L-BFGS from π): L_PPO against "
            "-log Z",
            -log_z,
            energy,
            1e-3 * start,
            "99.9 % of the way; a prefix's gradient is ∝ its probability, so rare ones come last",
        ),
        at_most(
            "discrete_rl/reaches_gibbs",
            "and its law is ρ*: KL(p‖ρ*) over KL(π‖ρ*)",
            1e-3,
            discrete.divergence(reached, star) / start,
            "the same",
        ),
        close(
            "discrete_rl/score_function",
            "E_p[∇ log p (log p/π - λr)], summed over all responses, is ∇L_PPO: largest difference",
            0.0,
            float(np.abs(expected - exact).max()),
            1e-12,
            "rounding: REINFORCE without its sampling",
        ),
    ]


def soft_values(responses: Responses, lam: float) -> Array:
    """ρ* as a product of conditionals, from the soft Bellman recursion; [S]."""
    value, law = lam * responses.reward, np.zeros(len(responses.reward))
    for at in reversed(range(responses.tokens.shape[1])):
        step = responses.steps[:, at]
        shared = (responses.tokens[:, None, :at] == responses.tokens[None, :, :at]).all(-1)
        width = responses.conditionals.shape[-1] ** (responses.tokens.shape[1] - at - 1)
        before = np.log((shared * np.exp(step + value)[None, :]).sum(1) / width)
        law += step + value - before
        value = before
    return np.exp(law)


def token_law(responses: Responses, logits: torch.Tensor) -> torch.Tensor:
    """log p(y) of the policy with logits [S, L, V], shared by sequences with one prefix; [S]."""
    tokens = torch.from_numpy(responses.tokens)
    vocabulary, length = logits.shape[-1], tokens.shape[1]
    total = torch.zeros(len(tokens), dtype=logits.dtype)
    for at in range(length):
        first = vocabulary ** (length - at)  # the first sequence with the same prefix
        owner = torch.arange(len(tokens)) // first * first
        rows = torch.log_softmax(logits[owner, at], dim=-1)
        total = total + rows.gather(1, tokens[:, at : at + 1])[:, 0]
    return total


def token_policy_gradient(responses: Responses, lam: float) -> tuple[Array, float]:
    """The law that L-BFGS on the exact policy gradient reaches from π, and its L_PPO."""
    logits = torch.from_numpy(responses.conditionals.copy()).requires_grad_()
    target = torch.from_numpy(responses.log_policy + lam * responses.reward)
    solver = torch.optim.LBFGS(
        [logits],
        max_iter=150,
        history_size=30,
        tolerance_grad=1e-9,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        log_p = token_law(responses, logits)
        return (log_p.exp() * (log_p - target)).sum()

    def closure() -> float:
        solver.zero_grad()
        value = loss()
        value.backward()
        return value.item()

    solver.step(closure)
    with torch.no_grad():
        return token_law(responses, logits).exp().numpy(), loss().item()


def score_function(responses: Responses, lam: float, context: Context) -> tuple[Array, Array]:
    """E_p[∇ log p · (log p/π - λr)] by enumeration, and ∇L_PPO by differentiation, at random p."""
    shape = responses.conditionals.shape
    logits = noise.normal(context.seed, "score-function", 0, shape).requires_grad_()
    target = torch.from_numpy(responses.log_policy + lam * responses.reward)
    log_p = token_law(responses, logits)
    (exact,) = torch.autograd.grad(
        (log_p.exp() * (log_p - target)).sum(), logits, retain_graph=True
    )
    cost = (log_p.exp() * (log_p - target)).detach()
    (expected,) = torch.autograd.grad((log_p * cost).sum(), logits)
    return expected.numpy(), exact.numpy()
