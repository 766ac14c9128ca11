"""The memory arithmetic against what autograd keeps, and against the live tensors of a pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from live_bytes import peak
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from nabla_eval.dto.objective import Site, _policy_pass
from nabla_eval.models import memory, prefix
from nabla_eval.models.load import policy_from
from nabla_eval.models.memory import Shape, Use, recompute_layers
from nabla_eval.protocol import TemplateAffixes
from nabla_eval.testing import tiny_tokenizer

TOKENS = 24
TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


@pytest.fixture(autouse=True)
def always_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "WORTH", -(10**9))


def kept_by_autograd(family: str, layers: int, use: Use, dtype: torch.dtype) -> tuple[int, Shape]:
    """Bytes of the tensors that autograd keeps for a gradient to the input embeddings."""
    config = AutoConfig.for_model(
        family, vocab_size=50, hidden_size=64, intermediate_size=176, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=2, head_dim=16, num_labels=1,
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config, dtype=dtype).eval()
    model.requires_grad_(False)
    if use.checkpointing:
        assert recompute_layers(model.base_model) == layers
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    rows = [tuple((i + j) % 50 for j in range(use.tokens - (i == 1))) for i in range(use.batch)]
    table = model.get_input_embeddings().weight
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        starts = [use.prefix - (i == 1) if use.prefix else 0 for i in range(use.batch)]
        device = torch.device("cpu")
        run = prefix.forward(model.base_model, table.__getitem__, rows, starts, device, grad=True)
        assert run.embeds.shape[1] == use.suffix
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return total, Shape.of(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize(("batch", "before"), [(1, 0), (2, 0), (1, 16), (3, 9)])
def test_what_autograd_keeps_to_the_byte(
    family: str, dtype: torch.dtype, batch: int, before: int
) -> None:
    if batch == 1 and before == 0 and TORCH < (2, 13):
        pytest.skip("without fused attention for grouped heads on a CPU, weights are kept")
    use = Use(TOKENS, batch, dtype.itemsize, before)
    one, shape = kept_by_autograd(family, 1, use, dtype)
    three, _ = kept_by_autograd(family, 3, use, dtype)
    assert (three - one) / 2 == memory.kept_per_layer(shape, use)


def test_checkpointing_keeps_the_inputs() -> None:
    use = Use(TOKENS, 2, 2, 8, checkpointing=True)
    one, shape = kept_by_autograd("qwen2", 1, use, torch.bfloat16)
    three, _ = kept_by_autograd("qwen2", 3, use, torch.bfloat16)
    assert (three - one) / 2 == 2 * use.suffix * shape.hidden * 2
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
