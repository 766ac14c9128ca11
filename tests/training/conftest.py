"""A two-layer Countdown policy with random weights, and jobs that train it in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The embedded policy's."""
    from transformers import AutoTokenizer

    from nabla_eval.embedded import paths

    return AutoTokenizer.from_pretrained(paths()[0])


@pytest.fixture(scope="session")
def tiny_policy(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import model_builders as build

    folder = tmp_path_factory.mktemp("policy")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 16}
    return build.save(
        folder, "policy", tokenizer, "llama", dtype=torch.float32, initializer_range=0.06,
        attention_bias=True, tie_word_embeddings=True, **sizes,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The same bits from the same seed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Write rows (or raw lines) to a file; returns its name."""

    def write(rows: Sequence[Any], name: str = "rows.jsonl") -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return str(tmp_path / name)

    return write
