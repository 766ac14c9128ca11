"""The rejection rate of proposals that owe nothing to a gradient: Table 4's baseline.

A loop holds a current response and accepts a proposal iff its reward is strictly higher. For N
i.i.d. responses without ties the accepted ones are the records: 1 + 1/2 + ... + 1/N = H_N.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from nabla_theory import noise

Array = NDArray[np.floating]


def harmonic(n: int) -> Fraction:
    """H_n = 1 + 1/2 + ... + 1/n, exactly."""
    return sum((Fraction(1, k) for k in range(1, n + 1)), start=Fraction(0))


def rejection_rate(n: int) -> Fraction:
    """1 - H_N/N: the share rejected of N i.i.d. draws, the first counted as accepted."""
    return 1 - harmonic(n) / n


def challenger_rejection_rate(n: int) -> Fraction:
    """1 - (H_N - 1)/(N - 1): the share rejected of the N - 1 challengers to the first draw."""
    return 1 - (harmonic(n) - 1) / (n - 1)


def records(values: Sequence[int]) -> int:
    """Count the values that are strictly above all before them; the first always is."""
    best, count = None, 0
    for value in values:
        if best is None or value > best:
            best, count = value, count + 1
    return count


def enumerated_records(n: int) -> Fraction:
    """E[records] over all n! orders of distinct values."""
    counts = [records(order) for order in permutations(range(n))]
    return Fraction(sum(counts), len(counts))


def records_with_ties(probabilities: Sequence[Fraction], n: int) -> Fraction:
    """E[records] of n i.i.d. draws of 0..K-1 with these probabilities, ties rejected.

    Draw k is a record at value v with probability p_v F(v-)^{k-1}, F(v-) = P(value < v).
    """
    total, below = Fraction(0), Fraction(0)
    for p in probabilities:
        total += sum((p * below**k for k in range(n)), start=Fraction(0))
        below += p
    return total


def enumerated_records_with_ties(probabilities: Sequence[Fraction], n: int) -> Fraction:
    """The same over all K^n sequences, one by one."""
    total = Fraction(0)
    for values in product(range(len(probabilities)), repeat=n):
        weight = Fraction(1)
        for value in values:
            weight *= probabilities[value]
        total += weight * records(values)
    return total


def improving_records(draws: Sequence[int]) -> Fraction:
    """E[records] when proposal k is the best of draws[k] i.i.d. responses: Σ_k m_k / (m_1+..+m_k).

    The best of all m_1+...+m_k responses is equally likely to be any of them (Nevzorov's F^α
    scheme), so proposal k is a record with probability m_k over that sum.
    """
    total, seen = Fraction(0), 0
    for m in draws:
        seen += m
        total += Fraction(m, seen)
    return total


def enumerated_improving_records(draws: Sequence[int]) -> Fraction:
    """The same over all orders of the underlying responses."""
    count, orders = 0, 0
    ends = np.cumsum(draws)
    for order in permutations(range(sum(draws))):
        best = [max(order[end - m : end]) for m, end in zip(draws, ends, strict=True)]
        count, orders = count + records(best), orders + 1
    return Fraction(count, orders)


def prefix_sharing_acceptances(rewards: Array, length: int, vocabulary: int) -> Fraction:
    """E[accepted challengers] of one left-to-right pass, exactly, by recursion over states.

    The policy is uniform over `vocabulary` tokens at `length` positions. The challenger of
    position i keeps the tokens before i and draws the others afresh; it replaces the current
    response iff `rewards` (one per sequence, in lexicographic order) is strictly higher.
    """
    count = vocabulary**length
    if len(rewards) != count:
        raise ValueError(f"{count} rewards are needed, got {len(rewards)}.")

    @cache
    def expected(current: int, position: int) -> Fraction:
        if position == length:
            return Fraction(0)
        block = vocabulary ** (length - position)
        first = current - current % block
        total = Fraction(0)
        for challenger in range(first, first + block):
            better = bool(rewards[challenger] > rewards[current])
            follows = challenger if better else current
            total += int(better) + expected(follows, position + 1)
        return total / block

    starts = [expected(current, 0) for current in range(count)]
    return sum(starts, start=Fraction(0)) / count


def enumerated_pass(rewards: Array) -> Fraction:
    """The same for three binary tokens, over all 8·8·4·2 paths one by one."""
    accepted, paths = 0, 0
    for current, first, second, third in product(range(8), range(8), range(4), range(2)):
        accepted += _accepted_on_path(rewards, current, (first, second, third))
        paths += 1
    return Fraction(accepted, paths)


def _accepted_on_path(rewards: Array, current: int, suffixes: tuple[int, ...]) -> int:
    accepted = 0
    for block, suffix in zip((8, 4, 2), suffixes, strict=True):
        challenger = current - current % block + suffix
        if rewards[challenger] > rewards[current]:
            current, accepted = challenger, accepted + 1
    return accepted


def simulated_acceptances(
    lanes: int, challengers: int, length: int, shared: bool, seed: int
) -> Array:
    """Accepted challengers per lane when the reward is a sum of `length` i.i.d. token values.

    With `shared`, challenger k keeps the first ⌊k length/challengers⌋ token values of the current
    response; otherwise it is drawn afresh. Token values are normal: no ties; [lanes].
    """
    current = noise.generator(seed, "rejection/start").standard_normal((lanes, length))
    accepted = np.zeros(lanes)
    for k in range(challengers):
        fresh = noise.generator(seed, "rejection/challenger", k).standard_normal((lanes, length))
        keep = k * length // challengers if shared else 0
        fresh[:, :keep] = current[:, :keep]
        better = fresh.sum(axis=1) > current.sum(axis=1)
        accepted += better
        current[better] = fresh[better]
    return accepted
