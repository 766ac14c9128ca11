"""Tiny random policies of real transformers classes: recurrent, hybrid and unusual ones too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    Qwen2Config,
    Qwen2ForTokenClassification,
)

from nabla_eval.models.load import policy_from, reward_from
from nabla_eval.models.pair import Pair

_LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
    "mamba_expand": 2, "mamba_chunk_size": 4,
}  # fmt: skip
_SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
    "initializer_range": 0.3, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 2,
}  # fmt: skip
_EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "num_local_experts": 4, "n_routed_experts": 4,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
_MULTI_HEAD_LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "num_key_value_heads": 4, "first_k_dense_replace": 1, "n_group": 1,
    "topk_group": 1,
}  # fmt: skip

# What each needs beside or instead of `_SMALL`, under names for its variants.
OWN: dict[str, dict[str, Any]] = {
    "qwen2_sw": {
        "family": "qwen2", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1,
        "layer_types": None,
    },
    "mistral_sw": {"family": "mistral", "sliding_window": 4},
    "llama_rope": {
        "family": "llama", "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "gemma3_text": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "cohere2": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "olmo3": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "exaone4": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_oss": {**_EXPERTS, "sliding_window": 4},
    "mixtral": _EXPERTS, "granitemoe": _EXPERTS,
    "deepseek_v3": {**_EXPERTS, **_MULTI_HEAD_LATENT},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "codegen": {"rotary_dim": 4, "n_ctx": 512},
    "bloom": {"n_head": 4, "n_layer": 2},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512},
    "qwen3_next": {**_EXPERTS, **_LINEAR}, "qwen3_5_text": _LINEAR,
    "qwen3_5_moe_text": {**_EXPERTS, **_LINEAR},
    "olmo_hybrid": {**_LINEAR, "linear_num_key_heads": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "jamba": {
        **_EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "mamba_d_state": 8, "mamba_expand": 2, "mamba_dt_rank": 4,
    },
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "granitemoehybrid": {
        **_EXPERTS, **_MAMBA, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 48,
    },
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "nemotron_h": {
        **_EXPERTS, "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8,
        "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 4,
    },
    "zamba2": {
        "layer_types": ["mamba", "hybrid"], "hybrid_layer_ids": [1], "mamba_expand": 2,
        "mamba_ngroups": 1, "n_mamba_heads": 8, "mamba_headdim": 8, "chunk_size": 4,
        "num_mem_blocks": 1, "num_key_value_heads": 4,
    },
    "kimi_linear": {
        **_EXPERTS, **_MULTI_HEAD_LATENT, "q_lora_rank": None, "num_experts_per_token": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_attn_config": {
            "num_heads": 4, "head_dim": 8, "short_conv_kernel_size": 4, "kda_layers": [1],
            "full_attn_layers": [2],
        },
    },
    "xlstm": {"num_heads": 4, "embedding_dim": 32, "num_blocks": 2},
    "minimax": {**_EXPERTS, "layer_types": ["linear_attention", "full_attention"], "block_size": 4},
    "mamba": {"state_size": 8, "expand": 2, "time_step_rank": 4},
    "falcon_mamba": {"state_size": 8, "expand": 2, "time_step_rank": 4},
    "mamba2": {"num_heads": 8, "state_size": 8, "expand": 2, "n_groups": 1, "chunk_size": 4},
    "recurrent_gemma": {
        "lru_width": 32, "attention_window_size": 16, "block_types": ["recurrent", "attention"],
    },
    "rwkv": {"attention_hidden_size": 32, "context_length": 512},
}  # fmt: skip


def options(name: str, rows: int) -> dict[str, Any]:
    """Options of the architecture's config, and `family` where that is not its name."""
    return {**_SMALL, "vocab_size": rows, **OWN.get(name, {})}


MAJOR = int(transformers.__version__.split(".")[0])
# Before transformers 5 they had other caches, kernels, position ids or bases.
SINCE_5 = {
    "bamba", "bloom", "cohere2", "falcon_h1", "falcon_mamba", "gemma3_text", "granitemoehybrid",
    "jamba", "lfm2", "mamba", "mamba2", "mpt", "recurrent_gemma", "rwkv", "zamba2",
}  # fmt: skip


def architecture(
    name: str, rows: int, dtype: torch.dtype, attention: str | None = None, **more: Any
) -> Any:
    """A model of the architecture with `rows` token ids: 0 is padding and 1 ends a text."""
    own = {**options(name, rows), **more}
    family = own.pop("family", name)
    if family not in CONFIG_MAPPING or (family in SINCE_5 and MAJOR < 5):
        pytest.skip(f"transformers {transformers.__version__} has no such {family}")
    config = AutoConfig.for_model(family, **own)
    chosen = {} if attention is None else {"attn_implementation": attention}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, **chosen).eval()


def pair_of(model: Any, tokenizer: Any, seed: int = 0) -> Pair:
    """The model as policy of a pair with a random process reward model of its dtype."""
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=4096,
        initializer_range=0.5, pad_token_id=0, eos_token_id=1, num_labels=1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Qwen2ForTokenClassification(config).to(model.dtype)
    policy = policy_from(model, tokenizer)
    return Pair(policy, reward_from(judge.eval(), tokenizer, policy))
