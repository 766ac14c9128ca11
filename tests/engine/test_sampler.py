"""Keyed sampling has the right distribution: by enumeration first, then by counting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from nabla_eval.engine.naive import distribution as naive_distribution
from nabla_eval.engine.naive import draw as naive_draw
from nabla_eval.engine.naive import next_logits
from nabla_eval.engine.rollout import rollout
from nabla_eval.engine.sampler import Filter, draw, draws
from nabla_eval.options import Sampling
from nabla_eval.protocol import Generate
from nabla_eval.randomness import Key, uniforms
from nabla_eval.testing import tiny_pair, tiny_problems

CPU = torch.device("cpu")
BELOW, BELOW_1 = np.nextafter(0.25, 0), np.nextafter(1.0, 0)
SETTINGS = [
    Sampling(temperature=t, top_p=p, top_k=k)
    for t, p, k in itertools.product([0.0, 0.5, 1.0, 2.0], [1.0, 0.9, 0.3], [0, 1, 4])
]


def logits(rows: int, words: int = 12) -> torch.Tensor:
    return 2 * torch.randn(rows, words, generator=torch.Generator().manual_seed(rows)).double()


@pytest.mark.parametrize(
    ("probabilities", "dtype", "numbers", "tokens"),
    [
        (
            [0.25, 0, 0.75],
            torch.float64,
            [1e-300, np.nextafter(0.25, 0), 0.25, BELOW_1],
            [0, 0, 2, 2],
        ),
        ([0, 0.1, 0.2, 0.7, 0], torch.float32, [2.0**-53, 1 - 2.0**-53], [1, 3]),
        # A billionth is less than what float32 tells apart at one half.
        ([0.5, 1e-9, 0.5], torch.float32, [0.5 - 0.6e-9, 0.5, 0.5 + 0.6e-9], [0, 1, 2]),
    ],
)
def test_a_token_is_drawn_on_its_share_of_the_unit_interval_and_nowhere_else(
    probabilities, dtype, numbers, tokens
):
    """Inverse CDF: token t is drawn on [F(t-1), F(t)), and one of probability 0 never."""
    p = torch.tensor([probabilities], dtype=dtype).expand(len(numbers), -1)
    assert draw(p, torch.tensor(numbers, dtype=torch.float64)).tolist() == tokens


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_filters_are_those_of_transformers_and_of_the_specification(sampling):
    z = logits(20)
    ours = Filter([sampling] * len(z), CPU).distribution(z)
    for row, own in zip(z, ours, strict=True):
        expected = torch.tensor(naive_distribution(row, sampling), dtype=torch.float64)
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-14)
    if sampling.temperature:
        scores = TemperatureLogitsWarper(sampling.temperature)(None, z)
        if sampling.top_k:
            scores = TopKLogitsWarper(sampling.top_k)(None, scores)
        if sampling.top_p < 1:
            scores = TopPLogitsWarper(sampling.top_p)(None, scores)
        torch.testing.assert_close(ours, scores.softmax(-1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("flat", [0.2, 1.0, 6.0], ids=["flat", "usual", "peaked"])
def test_large_vocabularies_are_filtered_and_drawn_from_as_the_specification_does(flat):
    """Past the few tokens and the one block that are looked at first; half of them are ties."""
    z = flat * logits(len(SETTINGS), 5003)
    z[:, ::2] = z[:, ::2].round()
    z[:, 7::11] = -torch.inf
    numbers = torch.from_numpy(uniforms([Key.root(i) for i in range(len(z))], 0, 20))
    numbers[:, 0], numbers[:, 1] = 2.0**-53, 1 - 2.0**-53
    found = Filter(SETTINGS, CPU).distribution(z)
    tokens = draws(found, numbers)
    for i, sampling in enumerate(SETTINGS):
        expected = naive_distribution(z[i], sampling)
        torch.testing.assert_close(found[i].tolist(), expected, rtol=0, atol=1e-13)
        assert tokens[i].tolist() == [naive_draw(expected, float(u)) for u in numbers[i]]


def test_a_number_below_one_never_draws_a_token_without_probability():
    """Nor does one that rounding puts behind the last token of its block."""
    p = torch.zeros(3, 2000)
    p[0, [3, 511]], p[1, [600, 601]], p[2, [0, 1999]] = 0.5, 0.5, 0.5
    edges = [2.0**-53, 0.5 - 2.0**-53, 0.5, 1 - 2.0**-53]
    assert draws(p, torch.tensor([edges] * 3, dtype=torch.float64)).tolist() == [
        [3, 3, 511, 511], [600, 600, 601, 601], [0, 0, 1999, 1999],
    ]  # fmt: skip
    nothing = torch.stack([torch.full((2000,), torch.nan), torch.zeros(2000)])
    assert (draws(nothing, torch.rand(2, 5).double()) < 2000).all()  # told apart elsewhere


@pytest.mark.parametrize(("top_p", "kept"), [(0.3, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.8, 3)])
def test_top_p_keeps_no_token_more_than_it_needs(top_p, kept):
    """The smallest set that reaches top-p, also where it is reached exactly (powers of two are)."""
    sampling = Sampling(temperature=1.0, top_p=top_p)
    z = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()
    found = Filter([sampling], CPU).distribution(z)[0]
    assert (found > 0).tolist() == [i < kept for i in range(4)]
    assert naive_distribution(z[0], sampling) == pytest.approx(found.tolist())


def test_top_p_of_one_drops_nothing_beside_rows_that_drop():
    """Three thirds in float32 sum to more than 1, and the token after them is kept all the same."""
    z = torch.tensor([[0.0, 0.0, 0.0, -25.0]]).expand(2, 4)
    settings = [Sampling(temperature=1.0, top_p=p) for p in (1.0, 0.9)]
    found = Filter(settings, CPU).distribution(z)
    assert (found > 0).tolist() == [[True, True, True, True], [True, True, True, False]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_probabilities_of_narrow_logits_are_as_exact_as_float32(dtype):
    z = logits(8).to(dtype)
    filters = Filter([Sampling(temperature=0.7, top_p=0.9)] * 8, CPU)
    torch.testing.assert_close(filters.distribution(z), filters.distribution(z.float()))


def test_rows_keep_their_own_settings():
    z = logits(len(SETTINGS))
    together = Filter(SETTINGS, CPU)
    mixed = together.distribution(z)
    for i, sampling in enumerate(SETTINGS):
        alone = Filter([sampling], CPU).distribution(z[i : i + 1])
        torch.testing.assert_close(mixed[i : i + 1], alone, rtol=0, atol=0)
    kept = torch.tensor([3, 20, 5])
    torch.testing.assert_close(together.rows(kept).distribution(z[kept]), mixed[kept])


def test_sequences_have_the_probabilities_that_enumeration_gives():
    """All sequences of a 3-token policy, their exact probabilities, and 6,000 keyed rollouts.

    Chi-square over the sequences expected at least 5 times; fails by chance with probability 1e-4
    (and the keys are fixed, so it does not at all).
    """
    pair = tiny_pair(seed=5, vocabulary=3)
    (problem,) = tiny_problems(pair, 1, max_new_tokens=3)
    sampling, draws = Sampling(temperature=1.5), 6000
    exact: dict[tuple[int, ...], float] = {}

    def walk(tokens: tuple[int, ...], probability: float) -> None:
        if len(tokens) == 3 or (tokens and tokens[-1] in pair.policy.end_ids):
            exact[tokens] = probability
            return
        p = naive_distribution(next_logits(pair, [*problem.prompt, *tokens]), sampling)
        for token in range(3):
            walk((*tokens, token), probability * p[token])

    walk((), 1.0)
    assert sum(exact.values()) == pytest.approx(1)
    requests = [Generate(problem, problem.key / "draft" / i, sampling) for i in range(draws)]
    seen = [trajectory.tokens for trajectory in rollout(pair.policy, requests)]
    assert set(seen) <= set(exact)
    likely = [s for s, p in exact.items() if p * draws >= 5]
    counts = [seen.count(s) for s in likely] + [sum(s not in likely for s in seen)]
    expected = [exact[s] * draws for s in likely]
    expected += [draws - sum(expected)]
    if expected[-1] < 5:  # the rare rest joins the last of the likely ones
        counts, expected = fold(counts), fold(expected)
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def fold(values: list[float]) -> list[float]:
    return [*values[:-2], values[-2] + values[-1]]


def test_uniform_numbers_do_not_depend_on_how_they_are_asked_for():
    keys = [Key.root(0) / "x" / i for i in range(4)]
    whole = uniforms(keys, 0, 100)
    assert (uniforms(keys, 60, 40) == whole[:, 60:]).all()
    assert (uniforms(keys[2:3], 0, 100) == whole[2:3]).all()
    ragged = uniforms(keys, [0, 5, 9, 60], 10)
    for row, start in enumerate([0, 5, 9, 60]):
        assert (ragged[row] == whole[row, start : start + 10]).all()
    assert len({(Key.root(0) / part).digest for part in (1, "1", 11)}) == 3
    assert (Key.root(0) / "a" / "b").digest != (Key.root(0) / "ab").digest


def test_uniform_numbers_are_uniform_within_and_across_streams():
    """KS along one stream and across streams, lag-1 correlation of both: failure odds 1e-4 each."""
    along = uniforms([Key.root(1)], 0, 50_000)[0]
    across = uniforms([Key.root(1) / i for i in range(50_000)], 0, 1)[:, 0]
    for numbers in (along, across):
        assert numbers.min() > 0 and numbers.max() < 1
        assert stats.kstest(numbers, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 3.9 / 50_000**0.5
