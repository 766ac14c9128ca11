"""A probe of tiny random pairs with the tokenizers and templates of real models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_builders import LLAMA, QWEN3, tiny

import nabla_eval as ne
from nabla_eval.models.load import policy_from, reward_from
from nabla_eval.models.pair import Pair
from nabla_eval.probing import reach


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), [(QWEN3, "qwen3"), (LLAMA, "llama")])
def test_vocabularies_of_real_size_are_probed(
    name: str,
    family: str,
    real: Callable[[str], Any],
    shared_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chat template, 130,000 to 150,000 tokens, a process reward, answers that are graded."""
    monkeypatch.setattr(reach, "settings", lambda config: {reach.OWN: config})
    tokenizer = real(name)
    options: dict[str, Any] = {"dtype": torch.float32, "initializer_range": 1.0}
    policy = policy_from(tiny("policy", tokenizer, family, **options).eval(), tokenizer)
    judge = tiny("process", tokenizer, family, **options).eval()
    pair = Pair(policy, reward_from(judge, tokenizer, policy))
    lines = (shared_data / "gsm8k_first200.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines[:2]]
    found = ne.probe(
        pair, [item["problem"] for item in items], [str(item["answer"]) for item in items],
        max_new_tokens=5, n=2, passes=1, steps=3, drafts=2, positions=1, rollouts=2, repeats=1,
        splits=1, draws=2,
    )  # fmt: skip
    assert found["room"]["uncertain_positions"]["value"] > 0, "the policy must have opinions"
    assert found["fidelity"]["positions"] > 0
    assert 0 < found["reach"]["settings"][0]["variation"]["value"] < 1
    assert not math.isnan(found["advantage"]["margin"]["accuracy"]["value"])
