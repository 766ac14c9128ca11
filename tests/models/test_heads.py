"""Base and head add up to the model, for every architecture that is let in."""

from __future__ import annotations

from typing import Any

import model_builders as build
import pytest
import torch
from architectures import MAJOR

from nabla_eval.errors import ModelError
from nabla_eval.models.heads import split_policy, split_reward
from nabla_eval.models.load import policy_from, reward_from

SHARP = {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 2.0}
POLICIES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {},
    "llama": {},
    "mistral": {},
    "gpt2": {},
    "gemma": {},  # scales embeddings inside the base
    "gemma2": SHARP,  # caps logits
    "gemma3_text": {},  # scales embeddings inside the lookup
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0},
    "cohere": {"logit_scale": 0.5},
}
REWARDS = ("qwen2", "qwen3", "llama", "mistral", "gpt2", "gemma", "gemma2")
TOKENS = torch.tensor([[5, 3, 11, 2, 7]])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", POLICIES)
def test_policy_is_its_head_on_its_base(family: str, tied: bool) -> None:
    if family == "gemma3_text" and MAJOR < 5:
        pytest.skip("refused before transformers 5: its class says nothing of its base")
    options = {"tie_word_embeddings": tied, **POLICIES[family]}
    model = build.tiny("policy", build.word_tokenizer(), family, **options)
    halves = split_policy(model, family)
    with torch.no_grad():
        whole = model(input_ids=TOKENS).logits
        torch.testing.assert_close(halves.head(halves.states(TOKENS)), whole)


@pytest.mark.parametrize("kind", ["outcome", "process"])
@pytest.mark.parametrize("family", REWARDS)
def test_reward_is_its_head_on_its_base(family: str, kind: str) -> None:
    model = build.tiny(kind, build.word_tokenizer(), family)
    halves, process = split_reward(model, family)
    assert process == (kind == "process")
    with torch.no_grad():
        scores, whole = halves.head(halves.states(TOKENS)), model(input_ids=TOKENS).logits[..., 0]
    torch.testing.assert_close(scores if process else scores[:, -1], whole)


def test_two_labels_become_log_odds_or_the_probability_of_right() -> None:
    tokenizer = build.word_tokenizer()
    model = build.tiny("process", tokenizer, num_labels=2)
    split_reward(model, "m")  # evaluates, and lets its norms compute in float64
    with torch.no_grad():
        wrong, right = model(input_ids=TOKENS).logits.unbind(-1)
        for how, expected in (
            ("logit", right - wrong),
            ("probability", torch.stack([wrong, right]).softmax(0)[1]),
        ):
            halves, _ = split_reward(model, "m", how)  # type: ignore[arg-type]
            torch.testing.assert_close(halves.head(halves.states(TOKENS)), expected)


def test_bfloat16_scores_are_not_rounded_to_bfloat16() -> None:
    model = build.tiny("outcome", build.word_tokenizer()).to(torch.bfloat16)
    head = split_reward(model, "m")[0].head
    scores = head(100 * torch.randn(64, 16).to(torch.bfloat16))
    assert scores.dtype == torch.float32
    assert len(scores.unique()) > len(scores.bfloat16().unique())


def test_weights_are_frozen_and_dropout_is_off() -> None:
    tokenizer = build.word_tokenizer()
    model = build.tiny("process", tokenizer).train()
    policy = policy_from(build.tiny("policy", tokenizer).train(), tokenizer)
    reward_from(model, tokenizer, policy)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert not policy.base.training and not policy.embedding.requires_grad


def test_parameters_leave_out_the_lookup_but_not_a_tied_head() -> None:
    """A head costs the same whether its weights are shared or not."""
    tied, own = (
        split_policy(build.tiny("policy", build.word_tokenizer(), tie_word_embeddings=t), "m")
        for t in (True, False)
    )
    assert tied.parameters == own.parameters


def test_a_model_that_does_not_add_up_is_refused() -> None:
    tokenizer = build.word_tokenizer()
    model = build.tiny("policy", tokenizer)
    forward = model.forward

    def doubled(*args: Any, **options: Any) -> Any:
        output = forward(*args, **options)
        output.logits = 2 * output.logits
        return output

    model.forward = doubled
    with pytest.raises(ModelError, match="logits differ from its head on its base"):
        split_policy(model, "odd")


@pytest.mark.parametrize(
    ("kind", "family", "labels", "words"),
    [
        ("process", "bert", 1, "looks ahead"),
        ("outcome", "qwen2", 2, "has 2 labels"),
        ("outcome", "qwen2", 3, "has 3 labels"),
        ("process", "qwen2", 3, "has 3 labels"),
    ],
)
def test_a_classifier_of_another_kind_is_refused(
    kind: str, family: str, labels: int, words: str
) -> None:
    model = build.tiny(kind, build.word_tokenizer(), family, num_labels=labels)
    with pytest.raises(ModelError, match=words):
        split_reward(model, "m")
