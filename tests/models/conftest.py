"""Fixtures of the tests of models/: real tokenizers where the optional data folder has them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_builders as build
import pytest


@pytest.fixture
def real_folder(shared_data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Folders with a real tokenizer and its config, whose entries may be changed."""

    def make(name: str, **changes: Any) -> Path:
        source = shared_data / "tokenizers" / name
        folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            if (source / file).exists():
                (folder / file).symlink_to(source / file)
        config = json.loads((source / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return folder

    return make


@pytest.fixture(scope="session")
def saved_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Checkpoints that are made once and copied from then on."""
    made: dict[str, Path] = {}

    def make(kind: str, **options: Any) -> Path:
        name = f"{kind}{sorted(options.items())}"
        if name not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[name] = build.save(folder, kind, build.word_tokenizer(), **options)
        return made[name]

    return make


@pytest.fixture
def checkpoints(tmp_path: Path, saved_once: Callable[..., Path]) -> Callable[..., Path]:
    """Tiny checkpoints to change: checkpoints("policy" | "outcome" | "process", **options)."""

    def make(kind: str, tokenizer: Any = None, **options: Any) -> Path:
        folder = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
        if tokenizer is not None:
            return build.save(folder, kind, tokenizer, **options)
        return Path(shutil.copytree(saved_once(kind, **options), folder))

    return make
