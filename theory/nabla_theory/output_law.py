"""The exact law of what Algorithm 1 returns, by dynamic programming over all of its draws.

The decoding loop of sections 3.2 and 3.3 without its gates: y ~ π is rollout 1 of N. At position i
the logits are refined from the trajectory y (DTO: T steps of Adam on -λr - log π, straight
through), and ỹ_i is drawn from them. ỹ_i = y_i commits y_i; otherwise the rest is rolled out by π
and replaces y iff its reward is higher. After N rollouts the rest of y is committed.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from nabla_theory import reach
from nabla_theory.discrete import Array, Responses


def refined(
    responses: Responses, at: int, *, lam: float, steps: int, lr: float, temperature: float = 1.0
) -> Array:
    """softmax(z̃_at/τ) for every sequence as trajectory, tokens before `at` committed; [S, V].

    Positions from `at` on are free and start at log π(·|y_<i); the hard token is the argmax, as in
    Alg. 2. Cosine rates fall to lr/10; Adam has no weight decay. ∂L/∂y depends on the hard
    sequence alone, so it is looked up.
    """
    z = responses.conditionals[:, at:]
    vocabulary, length = z.shape[-1], responses.tokens.shape[1]
    digits = vocabulary ** np.arange(length - 1, -1, -1)  # sequences are in lexicographic order
    slope = responses.likelihood_slope - lam * responses.reward_slope
    m, v = np.zeros_like(z), np.zeros_like(z)
    b1, b2 = reach.BETAS
    for t, rate in enumerate(reach.cosine_rates(lr, lr / 10, steps), start=1):
        hard = np.concatenate([responses.tokens[:, :at], z.argmax(-1)], axis=1)
        g = slope[hard @ digits][:, at:]
        p = special.softmax(z / temperature, axis=-1)
        g = p * (g - (p * g).sum(-1, keepdims=True)) / temperature
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        z = z - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8)
    return np.asarray(special.softmax(z[:, 0] / temperature, axis=-1))


def draws(
    responses: Responses, *, lam: float, steps: int, lr: float, temperature: float = 1.0
) -> list[Array]:
    """Return the laws of ỹ_i, `refined` at every position: L arrays [S, V]."""
    return [
        refined(responses, at, lam=lam, steps=steps, lr=lr, temperature=temperature)
        for at in range(responses.tokens.shape[1])
    ]


def transition(responses: Responses, at: int, law: Array) -> tuple[Array, Array]:
    """P(ỹ_at = y_at), [S], and P(y → its successor, ỹ_at ≠ y_at), [S, S]."""
    tokens, reward = responses.tokens, responses.reward
    shared = (tokens[:, None, :at] == tokens[None, :, :at]).all(-1)
    other = tokens[:, None, at] != tokens[None, :, at]
    rest = np.exp(responses.steps[:, at + 1 :].sum(1))  # π of what follows ỹ_at
    proposal = shared * other * law[:, tokens[:, at]] * rest[None, :]
    better = reward[None, :] > reward[:, None]  # ties reject
    move = np.where(better, proposal, 0.0)
    move[np.diag_indices(len(tokens))] += np.where(better, 0.0, proposal).sum(1)
    stay = np.take_along_axis(law, tokens[:, at : at + 1], axis=1)[:, 0]
    return stay, move


def output_laws(responses: Responses, laws: list[Array], rollouts: int) -> list[Array]:
    """The law of Algorithm 1's response for N = 1 .. `rollouts`; [S] each."""
    steps = [transition(responses, at, law) for at, law in enumerate(laws)]
    return [_law(responses, steps, n) for n in range(1, rollouts + 1)]


def _law(responses: Responses, steps: list[tuple[Array, Array]], rollouts: int) -> Array:
    mass = np.zeros((rollouts + 1, len(responses.reward)))  # [rollouts used, trajectory]
    mass[1] = np.exp(responses.log_policy)
    for stay, move in steps:
        after = np.zeros_like(mass)
        after[rollouts] = mass[rollouts]  # nothing left to spend: the rest is committed
        for used in range(1, rollouts):
            after[used] += mass[used] * stay
            after[used + 1] += mass[used] @ move
        mass = after
    return np.asarray(mass.sum(0))


def enumerated_law(responses: Responses, laws: list[Array], rollouts: int) -> Array:
    """The same by following every path of draws, token by token: the specification; [S]."""
    index = {tuple(y): s for s, y in enumerate(responses.tokens.tolist())}
    length, vocabulary = responses.tokens.shape[1], laws[0].shape[1]
    result = np.zeros(len(index))

    def complete(prefix: tuple[int, ...], chance: float) -> list[tuple[tuple[int, ...], float]]:
        """All rollouts from a prefix with their probabilities."""
        if len(prefix) == length:
            return [(prefix, chance)]
        any_with = next(s for y, s in index.items() if y[: len(prefix)] == prefix)
        step = np.exp(responses.conditionals[any_with, len(prefix)])
        return [
            done
            for token in range(vocabulary)
            for done in complete((*prefix, token), chance * float(step[token]))
        ]

    def visit(y: tuple[int, ...], at: int, used: int, chance: float) -> None:
        if at == length or used == rollouts:
            result[index[y]] += chance
            return
        for token in range(vocabulary):
            drawn = chance * float(laws[at][index[y], token])
            if token == y[at]:
                visit(y, at + 1, used, drawn)
                continue
            for other, likely in complete((*y[:at], token), drawn):
                better = responses.reward[index[other]] > responses.reward[index[y]]
                visit(other if better else y, at + 1, used + 1, likely)

    for y, chance in complete((), 1.0):
        visit(y, 0, 1, chance)
    return result


def total_variation(p: Array, q: Array) -> float:
    """½ Σ |p - q|."""
    return float(np.abs(p - q).sum() / 2)
