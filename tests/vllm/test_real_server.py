"""A real vLLM server of the policy: the same tokens where they are certain, the same distribution
where they are drawn, and our own rules for where a response ends.

Draws are seeded, so these tests give the same result each time on one version of vLLM and torch;
the probabilities of failure are those of a new version's fresh draws.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import chi2

from nabla_eval.embedded.countdown import test_problems as countdown
from nabla_eval.engine.rollout import rollout
from nabla_eval.engine.sampler import Filter
from nabla_eval.engine.vllm import VLLMRollout
from nabla_eval.engine.vllm_client import Server, ServerOptions
from nabla_eval.errors import ConfigError, ModelError, ServerError
from nabla_eval.harness.lm import NablaLM
from nabla_eval.models.pair import Pair
from nabla_eval.options import Sampling
from nabla_eval.protocol import Generate, Problem
from nabla_eval.randomness import Key

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def remote(pair: Pair, url: str) -> VLLMRollout:
    return VLLMRollout(pair.policy, Server(ServerOptions(vllm_url=url)))


def problems(pair: Pair, count: int, **options: Any) -> list[Problem]:
    return [
        pair.problem(
            doc["prompt"], Key.root(7) / "vllm" / i, id=str(i), **{"max_new_tokens": 24, **options}
        )
        for i, doc in enumerate(countdown(count))
    ]


def gap(pair: Pair, problem: Problem, tokens: tuple[int, ...]) -> float:
    """How far the last of the tokens is behind the best one, in nats, in float32."""
    ids = torch.tensor([[*problem.prompt, *tokens[:-1]]])
    with torch.no_grad():
        logits = pair.policy.head(pair.policy.base(input_ids=ids).last_hidden_state[0, -1])
    return float(logits.max() - logits[tokens[-1]])


@pytest.mark.parametrize("stop", [(), (";",), ("=", "7;")])
def test_greedy_tokens_are_the_local_ones(
    pair: Pair, remote: VLLMRollout, stop: tuple[str, ...]
) -> None:
    """Token for token; where they part, the two best tokens are a rounding error apart."""
    requests = [Generate(p, p.key, GREEDY) for p in problems(pair, 60, stop=stop)]
    found, expected = remote(requests), rollout(pair.policy, requests)
    parted = 0
    for request, ours, theirs in zip(requests, found, expected, strict=True):
        if ours.tokens != theirs.tokens:
            parted += 1
            both = zip(ours.tokens, theirs.tokens, strict=False)
            at = next(i for i, (a, b) in enumerate(both) if a != b)
            assert gap(pair, request.problem, ours.tokens[: at + 1]) < 1e-4
            continue
        assert (ours.text, ours.scored, ours.stop) == (theirs.text, theirs.scored, theirs.stop)
        assert ours.cost.generated_tokens == theirs.cost.generated_tokens
        assert ours.entropy == pytest.approx(theirs.entropy, abs=1e-4)
        torch.testing.assert_close(ours.states, theirs.states, rtol=1e-4, atol=1e-4)
    print(f"{len(requests) - parted} of {len(requests)} greedy responses are equal")
    assert parted <= 2


@torch.no_grad()
def distribution(pair: Pair, problem: Problem, sampling: Sampling) -> torch.Tensor:
    """What the local policy draws a response's first token from, `[V]`."""
    ids = torch.tensor([problem.prompt])
    logits = pair.policy.head(pair.policy.base(input_ids=ids).last_hidden_state[:, -1])
    return Filter([sampling], logits.device).distribution(logits)[0].double()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1),
        Sampling(temperature=1.5, top_k=5),
        Sampling(temperature=2, top_p=0.9),
    ],
)
def test_one_token_has_the_local_distribution(
    pair: Pair, remote: VLLMRollout, sampling: Sampling
) -> None:
    """Chi-square over 1500 draws where the policy is least certain; fails with chance 1e-6."""
    warm = Sampling(temperature=1)
    asked = max(
        problems(pair, 60, max_new_tokens=1),
        key=lambda problem: torch.special.entr(distribution(pair, problem, warm)).sum(),
    )
    requests = [Generate(asked, asked.key / "first" / i, sampling) for i in range(1500)]
    counts = Counter(trajectory.tokens[0] for trajectory in remote(requests))
    expected = distribution(pair, asked, sampling) * len(requests)
    assert all(expected[token] > 0 for token in counts), "a token outside top-k or top-p"
    # Rare tokens are one cell, so that every cell is expected to hold 5 draws.
    common = [token for token in range(len(expected)) if expected[token] >= 5]
    cells = [(counts[token], float(expected[token])) for token in common]
    rest = len(requests) - sum(count for count, _ in cells)
    rare = len(requests) - sum(mean for _, mean in cells)
    if rare >= 5:
        cells.append((rest, rare))
    statistic = sum((count - mean) ** 2 / mean for count, mean in cells)
    print(f"{sampling}: chi2 = {statistic:.1f} with {len(cells)} cells")
    assert len(cells) >= 3
    assert statistic < chi2.isf(1e-6, len(cells) - 1)


def test_whole_responses_are_as_surprising_as_they_should_be(
    pair: Pair, remote: VLLMRollout
) -> None:
    """Given its prefix, a token's -log p has the mean H: the sum of the differences over 300
    responses is a martingale, below 5 of its standard deviations but for a chance of 6e-7."""
    requests = [
        Generate(p, p.key / "surprise" / i, Sampling(temperature=1))
        for p in problems(pair, 60)
        for i in range(5)
    ]
    differences = [
        -log_probability - entropy
        for trajectory in remote(requests)
        for log_probability, entropy in zip(
            trajectory.log_probability, trajectory.entropy, strict=True
        )
    ]
    z = sum(differences) / math.sqrt(sum(d * d for d in differences))
    print(f"z = {z:.2f} over {len(differences)} tokens")
    assert abs(z) < 5


def test_seeds_decide_and_neighbours_do_not(pair: Pair, url: str, remote: VLLMRollout) -> None:
    warm = Sampling(temperature=1)
    requests = [Generate(p, p.key, warm) for p in problems(pair, 40)]
    together = [t.tokens for t in remote(requests)]
    assert [t.tokens for t in remote(requests)] == together
    alone = VLLMRollout(pair.policy, Server(ServerOptions(vllm_url=url, vllm_concurrency=1)))
    assert [t.tokens for t in alone(list(reversed(requests)))] == list(reversed(together))
    others = [replace(request, key=request.key / "other") for request in requests]
    differing = sum(a.tokens != b for a, b in zip(remote(others), together, strict=True))
    assert differing > 10


def test_what_is_wrong_is_said(pair: Pair, url: str) -> None:
    with pytest.raises(ConfigError, match="offers policy; not 'polcy'"):
        Server(ServerOptions(vllm_url=url, vllm_model="polcy"))
    server = Server(ServerOptions(vllm_url=url))
    assert server.context == 128
    with pytest.raises(ServerError, match=r"status 400: max_tokens"):
        server.complete({"prompt": [1, 2], "max_tokens": 500})
    with pytest.raises(ServerError, match="out of vocabulary"):
        server.complete({"prompt": [9999], "max_tokens": 1})
    shuffled = torch.randperm(pair.policy.vocabulary, generator=torch.Generator().manual_seed(0))
    head = pair.policy.head
    other = replace(pair.policy, head=lambda hidden: head(hidden)[..., shuffled])
    with pytest.raises(ModelError, match="another model"):
        VLLMRollout(other, server)


def test_nabla_runs_on_a_servers_rollouts(url: str) -> None:
    from lm_eval.api.instance import Instance

    def ask() -> list[Any]:
        return [
            Instance("generate_until", {}, (doc["prompt"], {"max_gen_toks": 24}), 0,
                     metadata=("countdown", i, 1))
            for i, doc in enumerate(countdown(12))
        ]  # fmt: skip

    def run(size: int) -> list[Any]:
        lm = NablaLM(
            rollout="vllm", vllm_url=url, n=4, seed=3, dtype="float32", device="cpu",
            batch_size=size,
        )  # fmt: skip
        return lm.generate_until(ask(), disable_tqdm=True)

    eight, three = run(8), run(3)
    same = sum(str(a) == str(b) for a, b in zip(eight, three, strict=True))
    print(f"{same} of {len(eight)} responses are equal for two batch sizes")
    assert same >= 11, "float32 sums depend on the batch, which may decide a tie"
    for response in eight:
        stats = response.stats
        assert math.isfinite(stats["reward"]) and stats["generated_tokens"] > 0
        assert stats["prefills"] >= 2
    assert sum(response.stats["candidates"] for response in eight) > 0
