"""The rejection baseline 1 - H_N/N: exact, with ties, better proposals, or shared prefixes."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from nabla_theory import noise, rejection
from nabla_theory.checks import Check, Context, at_least, at_most, close, within_error, z_limit

EXACT = "exact fractions"
LANES = 10_000


def records(context: Context) -> list[Check]:
    """i.i.d. proposals without ties: 1 - H_N/N by all orders, and its value at N = 8."""
    differ = [rejection.enumerated_records(n) - rejection.harmonic(n) for n in range(1, 8)]
    return [
        close(
            "records/enumeration",
            "E[accepted of N] = H_N over all N! orders, N = 1..7: number of N that agree",
            7,
            sum(d == 0 for d in differ),
            0.0,
            EXACT,
        ),
        close(
            "records/first_counted",
            "1 - H_8/8, the first draw counted as accepted (66.03 %)",
            float(1 - Fraction(761, 280) / 8),
            float(rejection.rejection_rate(8)),
            0.0,
            "H_8 = 761/280",
        ),
        close(
            "records/challengers",
            "1 - (H_8 - 1)/7, challengers only (75.46 %)",
            float(1 - Fraction(481, 280) / 7),
            float(rejection.challenger_rejection_rate(8)),
            0.0,
            "H_8 - 1 = 481/280",
        ),
    ]


def records_with_ties(context: Context) -> list[Check]:
    """Ties reject, so few distinct answers mean more rejection."""
    cases = [
        ([Fraction(1, 2), Fraction(1, 2)], 5),
        ([Fraction(1, 6), Fraction(1, 3), Fraction(1, 2)], 5),
        ([Fraction(1, 4)] * 4, 4),
    ]
    agree = sum(
        rejection.records_with_ties(p, n) == rejection.enumerated_records_with_ties(p, n)
        for p, n in cases
    )
    few = 1 - rejection.records_with_ties([Fraction(1, 3)] * 3, 8) / 8
    many = rejection.records_with_ties([Fraction(1, 4000)] * 4000, 8)
    return [
        close(
            "records_with_ties/enumeration",
            "Σ_v p_v Σ_k F(v-)^k against all K^N sequences: laws that agree",
            len(cases),
            agree,
            0.0,
            EXACT,
        ),
        at_least(
            "records_with_ties/few_answers",
            "three equally likely rewards and N = 8: the rejection rate exceeds 1 - H_8/8",
            float(rejection.rejection_rate(8)),
            float(few),
            EXACT,
        ),
        close(
            "records_with_ties/limit",
            "4000 equally likely rewards: close to H_8",
            float(rejection.harmonic(8)),
            float(many),
            8 * 7 / 2 / 4000,
            "P(any tie) ≤ N(N-1)/2 / 4000, each costs at most one record",
        ),
    ]


def improving_proposals(context: Context) -> list[Check]:
    """Better and better proposals lower the rejection rate without touching the rule."""
    cases = [[1, 2, 3], [1, 1, 2, 2], [2, 1, 3], [1, 2, 4]]
    agree = sum(
        rejection.improving_records(draws) == rejection.enumerated_improving_records(draws)
        for draws in cases
    )
    doubling = rejection.improving_records([2**k for k in range(8)])
    return [
        close(
            "improving_proposals/enumeration",
            "proposal k the best of m_k: E[accepted] = Σ m_k/(m_1+..+m_k), by all orders",
            len(cases),
            agree,
            0.0,
            EXACT,
        ),
        close(
            "improving_proposals/doubling",
            "m_k = 2^(k-1), N = 8: rejection rate 1 - Σ 2^(k-1)/(2^k - 1)/8",
            1 - sum(2 ** (k - 1) / (2**k - 1) for k in range(1, 9)) / 8,
            float(1 - doubling / 8),
            1e-15,
            "rounding",
        ),
    ]


def prefix_sharing(context: Context) -> list[Check]:
    """Challengers that keep a prefix are not i.i.d.: 1 - H_N/N is not their baseline."""
    n, length = 8, 64
    challengers = n - 1
    expected = float(rejection.challenger_rejection_rate(n))
    rates = {}
    for shared in (False, True):
        accepted = rejection.simulated_acceptances(LANES, challengers, length, shared, context.seed)
        rates[shared] = (
            1 - accepted.mean() / challengers,
            accepted.std(ddof=1) / math.sqrt(LANES) / challengers,
        )
    (plain, plain_error), (sharing, sharing_error) = rates[False], rates[True]
    both = math.hypot(plain_error, sharing_error)
    return [
        within_error(
            "prefix_sharing/iid",
            f"i.i.d. challengers: {plain:.4f} rejected; 1 - (H_8 - 1)/7 = {expected:.4f}",
            [(plain - expected) / plain_error],
        ),
        at_least(
            "prefix_sharing/additive",
            "reward a sum over tokens, challenger k keeps k/7 of the response: fewer rejections "
            f"({sharing:.4f}) with no gradient at all; difference in standard errors",
            z_limit(1),
            (plain - sharing) / both,
            "otherwise chance; the selected part of the response shrinks with every position",
        ),
        *_exact_pass(),
    ]


def _exact_pass() -> list[Check]:
    """One left-to-right pass over short sequences, by recursion over all states."""
    vocabulary, length = 2, 6
    draw = noise.generator(0, "rejection/table")  # a claim about this table, not about its draw
    small = draw.permutation(8).astype(float)
    agree = rejection.prefix_sharing_acceptances(small, 3, 2) == rejection.enumerated_pass(small)
    count = vocabulary**length
    ranked = np.arange(count, dtype=float)  # sequences in lexicographic order: early tokens first
    table = draw.permutation(count).astype(float)
    accepted = {
        name: float(rejection.prefix_sharing_acceptances(rewards, length, vocabulary)) / length
        for name, rewards in (("ranked", ranked), ("table", table))
    }
    # i.i.d. challengers among the same 64 rewards, with the ties that repeated draws cause
    iid = float(rejection.records_with_ties([Fraction(1, count)] * count, length + 1) - 1) / length
    return [
        close(
            "prefix_sharing/enumeration",
            "E[accepted] of a pass by recursion equals all 512 paths of 3 binary tokens",
            1.0,
            float(agree),
            0.0,
            EXACT,
        ),
        at_most(
            "prefix_sharing/first_token_first",
            "6 binary tokens, reward ranks early tokens first: rejection below the i.i.d. value",
            1 - iid,
            1 - accepted["ranked"],
            EXACT,
        ),
        at_least(
            "prefix_sharing/unstructured",
            "the same for a shuffled reward table: above it; late challengers often repeat a token",
            1 - iid,
            1 - accepted["table"],
            EXACT,
        ),
    ]
