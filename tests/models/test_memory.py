"""The memory arithmetic against what autograd keeps and holds; how checkpointing keeps less."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from live_bytes import peak
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

import nabla_eval as ne
from nabla_eval.dto.objective import Site, _policy_pass, differentiate, row_gradient
from nabla_eval.errors import ConfigError, ModelError
from nabla_eval.harness.arguments import read
from nabla_eval.harness.lm import NablaLM
from nabla_eval.models import memory, prefix
from nabla_eval.models.load import policy_from
from nabla_eval.models.memory import Shape, Use, checkpoint_gradients, recompute_layers, recomputes
from nabla_eval.models.pair import Pair
from nabla_eval.options import Objective
from nabla_eval.protocol import TemplateAffixes
from nabla_eval.testing import tiny_pair, tiny_problems, tiny_tokenizer

TOKENS = 24
TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
OBJECTIVE = Objective(nll_weight=0.5)


@pytest.fixture(autouse=True)
def always_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "WORTH", -(10**9))


@contextmanager
def kept_by_autograd(models: Iterable[torch.nn.Module]) -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps, but for the weights."""
    own = {p.untyped_storage().data_ptr() for model in models for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # or an address may be given twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            alive.append(tensor)
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def kept_by_layers(family: str, layers: int, use: Use, dtype: torch.dtype) -> tuple[int, Shape]:
    """Bytes that autograd keeps for a gradient to the input embeddings."""
    config = AutoConfig.for_model(
        family, vocab_size=50, hidden_size=64, intermediate_size=176, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=2, head_dim=16, num_labels=1,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config, dtype=dtype).eval()
    model.requires_grad_(False)
    if use.checkpointing:
        assert recompute_layers(model.base_model) == layers
    rows = [tuple((i + j) % 50 for j in range(use.tokens - (i == 1))) for i in range(use.batch)]
    starts = [use.prefix - (i == 1) if use.prefix else 0 for i in range(use.batch)]
    table, device = model.get_input_embeddings().weight, torch.device("cpu")
    with kept_by_autograd([model]) as kept:
        run = prefix.forward(model.base_model, table.__getitem__, rows, starts, device, grad=True)
        assert run.embeds.shape[1] == use.suffix
    return sum(kept.values()), Shape.of(config)


def kept_of_a_layer(family: str, use: Use, dtype: torch.dtype) -> tuple[float, Shape]:
    (one, shape), (three, _) = (kept_by_layers(family, n, use, dtype) for n in (1, 3))
    return (three - one) / 2, shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize(("batch", "before"), [(1, 0), (2, 0), (1, 16), (3, 9)])
def test_what_autograd_keeps_to_the_byte(
    family: str, dtype: torch.dtype, batch: int, before: int
) -> None:
    if batch == 1 and before == 0 and TORCH < (2, 13):
        pytest.skip("without fused attention for grouped heads on a CPU, weights are kept")
    use = Use(TOKENS, batch, dtype.itemsize, before)
    layer, shape = kept_of_a_layer(family, use, dtype)
    assert layer == memory.kept_per_layer(shape, use)


def test_checkpointing_keeps_the_inputs() -> None:
    use = Use(TOKENS, 2, 2, 8, checkpointing=True)
    layer, shape = kept_of_a_layer("qwen2", use, torch.bfloat16)
    assert layer == 2 * use.suffix * shape.hidden * 2
    deep = replace(shape, layers=8)
    assert 4 * memory.kept(deep, use) < memory.kept(deep, replace(use, checkpointing=False))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("batch", "before"), [(1, 0), (4, 0), (2, 160)])
def test_the_peak_of_a_pass_is_near_its_terms(batch: int, before: int, checkpointing: bool) -> None:
    """Every tensor that a gradient pass of an 8-layer Qwen2 makes, counted while it lives."""
    config = AutoConfig.for_model(
        "qwen2", vocab_size=500, hidden_size=256, intermediate_size=1024, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    policy = policy_from(AutoModelForCausalLM.from_config(config).eval(), tiny_tokenizer(500))
    if checkpointing:
        assert recompute_layers(policy.base) == 8
    tokens, prompt = 256, 32
    rows = [tuple(range(40 + i, 40 + i + tokens - prompt)) for i in range(batch)]
    sites = [Site(tuple(range(2, 2 + prompt)), TemplateAffixes((), ()), own, 10) for own in rows]

    def gradient() -> None:
        with torch.enable_grad():
            _policy_pass(policy, sites, [max(0, before - prompt)] * batch, 1.0)

    use = Use(tokens, batch, 4, before, checkpointing)
    terms = {term.name: term.bytes for term in memory.of_policy(Shape.of(config), 0, use).terms}
    del terms["key-value cache of rollouts"]
    assert 0.65 < peak(gradient) / sum(terms.values()) < 1.0


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_attention_heads": None},
        {"num_attention_heads": [2, 4, None], "num_key_value_heads": [1, 2], "head_dim": 8},
        {"intermediate_size": [24, 48]},
    ],
)
def test_sizes_may_be_missing_or_differ_by_layer(sizes: dict[str, object]) -> None:
    config = type("Config", (), {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 19,
        "intermediate_size": 48, "model_type": "any", "get_text_config": lambda self: self, **sizes,
    })()  # fmt: skip
    shape = Shape.of(config)
    assert shape.query == 32 and shape.intermediate == 48
    assert shape.heads == (1 if sizes.get("num_attention_heads", 0) is None else 4)


# --- gradient checkpointing ---------------------------------------------------------------------


def taken(pair: Pair, firsts: list[int]) -> tuple[list[torch.Tensor], int]:
    """Gradient rows, and the bytes that autograd kept for them beside the weights."""
    tokens = [tuple((2 + i + 3 * j) % 11 for j in range(12 - i)) for i in range(3)]
    problems = zip(tiny_problems(pair, 3), tokens, strict=True)
    sites = [Site(p.prompt, p.affixes, own, len(own)) for p, own in problems]
    with kept_by_autograd([pair.policy.base, pair.judge.base]) as kept:
        found = differentiate(pair, sites, OBJECTIVE, firsts)
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


def test_answers_do_not_depend_on_it() -> None:
    problems, options = ["3,1,4=8?", "5,6,2=17?"], {"n": 4, "batch_size": 2}
    plain = ne.generate(ne.load_pair(dtype="float64"), problems, **options)
    pair = ne.load_pair(dtype="float64", gradient_checkpointing=True)
    for ours, expected in zip(ne.generate(pair, problems, **options), plain, strict=True):
        assert ours.trace == expected.trace


def test_the_harness_switches_it_on() -> None:
    assert read({"gradient_checkpointing": "true"}).gradient_checkpointing
    lm = NablaLM(gradient_checkpointing=True, dtype="float32", device="cpu")
    assert recomputes(lm.pair.policy.base) and recomputes(lm.pair.judge.base)
    with pytest.raises(ConfigError, match="gradient_checkpointing: these say how to load"):
        NablaLM(pair=lm.pair, gradient_checkpointing=True)


def test_a_model_without_layers_is_refused() -> None:
    pair = tiny_pair()
    bare = replace(pair.policy, base=torch.nn.Linear(2, 2), name="flat")
    with pytest.raises(ModelError, match="flat has no layers"):
        checkpoint_gradients(replace(pair, policy=bare))
