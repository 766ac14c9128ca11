"""A bfloat16 forward pass of Qwen2 for training on a CPU, with few copies.

Weights stay float32 and are cast in the graph. Rows are padded on the right, so the causal mask is
all that attention needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, silu

HALF = torch.bfloat16


def hidden_states(model: Any, ids: Tensor) -> Tensor:
    """Return the last hidden states [B, L, D] of a `Qwen2Model` in bfloat16."""
    config = model.config
    heads, shared = config.num_attention_heads, config.num_key_value_heads
    size, length = config.hidden_size // heads, ids.shape[1]
    theta = config.rope_parameters["rope_theta"]
    speeds = theta ** (-torch.arange(0, size, 2) / size)
    angles = (torch.arange(length)[:, None] * speeds.repeat(2))[:, None]
    rotation = angles.cos().to(HALF), angles.sin().to(HALF)
    mask = torch.full((length, length), -1e4).triu(1).to(HALF).repeat(heads // shared, 1)
    hidden = embedding(ids, model.embed_tokens.weight).to(HALF)
    for layer in model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight = torch.cat([part.weight for part in parts]).to(HALF)
        bias = torch.cat([part.bias for part in parts]).to(HALF)
        joint = linear(_norm(hidden, layer.input_layernorm), weight, bias)
        mixed = _attend(joint, heads, shared, size, rotation, mask)
        hidden = hidden + linear(mixed, attention.o_proj.weight.to(HALF))
        weight = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).to(HALF)
        joint = linear(_norm(hidden, layer.post_attention_layernorm), weight)
        gate, up = joint.chunk(2, dim=-1)
        hidden = hidden + linear(silu(gate) * up, mlp.down_proj.weight.to(HALF))
    return _norm(hidden, model.norm)


def _norm(hidden: Tensor, norm: Any) -> Tensor:
    square = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True, dtype=torch.float32)
    scale = (square.pow(2) / hidden.shape[-1] + norm.variance_epsilon).rsqrt().to(HALF)
    return hidden * scale * norm.weight.to(HALF)


def _attend(
    joint: Tensor, heads: int, shared: int, size: int, rotation: tuple[Tensor, Tensor], mask: Tensor
) -> Tensor:
    """Causal attention of queries, keys and values [B, L, (heads + 2 shared) size]."""
    batch, length, _ = joint.shape
    turned, values = joint.split([(heads + shared) * size, shared * size], dim=-1)
    turned = turned.reshape(batch, length, heads + shared, size)
    (a, b), (cos, sin) = turned.chunk(2, dim=-1), rotation
    turned = (turned * cos + torch.cat([-b, a], dim=-1) * sin).transpose(1, 2)
    queries = turned[:, :heads].reshape(batch * shared, heads // shared * length, size)
    keys = turned[:, heads:].reshape(batch * shared, length, size)
    values = values.view(batch, length, shared, size).transpose(1, 2)
    values = values.reshape(batch * shared, length, size)
    scores = torch.baddbmm(mask[None], queries, keys.transpose(1, 2), alpha=size**-0.5)
    mixed = torch.bmm(scores.softmax(dim=-1), values)
    return mixed.view(batch, heads, length, size).transpose(1, 2).reshape(batch, length, -1)
