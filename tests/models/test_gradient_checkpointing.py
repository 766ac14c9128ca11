"""Gradient checkpointing: the same gradients, and less kept for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import nabla_eval as ne
from nabla_eval.dto.objective import Site, differentiate, row_gradient
from nabla_eval.errors import ConfigError, ModelError
from nabla_eval.harness.arguments import read
from nabla_eval.harness.lm import NablaLM
from nabla_eval.models import prefix
from nabla_eval.models.memory import checkpoint_gradients, recomputes
from nabla_eval.models.pair import Pair
from nabla_eval.options import Objective
from nabla_eval.testing import tiny_pair, tiny_problems

OBJECTIVE = Objective(nll_weight=0.5)


def sites(pair: Pair) -> list[Site]:
    problems = tiny_problems(pair, 3)
    tokens = [tuple((2 + i + 3 * j) % 11 for j in range(12 - i)) for i in range(3)]
    return [Site(p.prompt, p.frame, own, len(own)) for p, own in zip(problems, tokens, strict=True)]


def taken(pair: Pair, firsts: list[int]) -> tuple[list[torch.Tensor], int]:
    """Gradient rows, and the bytes that autograd kept for them beside the weights."""
    weights = {
        parameter.untyped_storage().data_ptr()
        for model in (pair.policy, pair.judge)
        for parameter in model.base.parameters()
    }
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = differentiate(pair, sites(pair), OBJECTIVE, firsts)
    rows = [
        row_gradient(pair, own, range(first, first + own.hidden.shape[0]), OBJECTIVE)
        for first, own in zip(firsts, found, strict=True)
    ]
    return rows, sum(kept.values())


@pytest.mark.parametrize("firsts", [[0, 0, 0], [4, 6, 2]])
@pytest.mark.parametrize("worth", [-(10**9), 10**9])
def test_gradients_are_the_same_and_less_is_kept(
    firsts: list[int], worth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix, "WORTH", worth)
    plain, much = taken(tiny_pair(), firsts)
    pair = checkpoint_gradients(checkpoint_gradients(tiny_pair()))  # twice is once
    again, little = taken(pair, firsts)
    for ours, expected in zip(again, plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-10)
    assert little < much / 2


def test_a_cut_keeps_less() -> None:
    _, whole = taken(tiny_pair(), [0, 0, 0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "WORTH", -(10**9))
        _, cut = taken(tiny_pair(), [10, 9, 8])
    assert cut < whole / 2


def test_answers_do_not_depend_on_it() -> None:
    problems, options = ["3,1,4=8?", "5,6,2=17?"], {"n": 4, "batch_size": 2}
    plain = ne.generate(ne.load_pair(dtype="float64"), problems, **options)
    pair = ne.load_pair(dtype="float64", gradient_checkpointing=True)
    for ours, expected in zip(ne.generate(pair, problems, **options), plain, strict=True):
        assert ours.trace == expected.trace


def test_the_harness_switches_it_on() -> None:
    arguments = read({"gradient_checkpointing": "true"})
    assert arguments.gradient_checkpointing
    lm = NablaLM(gradient_checkpointing=True, dtype="float32", device="cpu")
    for model in (lm.pair.policy, lm.pair.judge):
        assert recomputes(model.base)
    with pytest.raises(ConfigError, match="gradient_checkpointing: these say how to load"):
        NablaLM(pair=lm.pair, gradient_checkpointing=True)


def test_a_model_without_layers_is_refused() -> None:
    pair = tiny_pair()
    bare = replace(pair.policy, base=torch.nn.Linear(2, 2), name="flat")
    with pytest.raises(ModelError, match="flat has no layers"):
        checkpoint_gradients(replace(pair, policy=bare))
