"""An output folder belongs to one run, and only that run goes on in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nabla_eval.errors import DataError
from nabla_eval.training.folder import CHECKPOINTS, LOG, OPTIONS, RECORD, claim

OPTION = {"lr": 0.1, "exclude": ["a"], "recipe": {"seed": 0}}


def checkpoint(folder: Path, step: str, state: str = "{}") -> Path:
    path = folder / CHECKPOINTS / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(state)
    return path


def test_a_new_folder_starts_at_the_beginning(tmp_path: Path) -> None:
    assert claim(tmp_path / "a" / "b", OPTION, resume=False) is None
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / LOG).touch()  # is opened before the run is
    assert claim(tmp_path / "c", OPTION, resume=False) is None


def test_the_newest_whole_checkpoint_is_resumed(tmp_path: Path) -> None:
    claim(tmp_path, OPTION, resume=False)
    assert claim(tmp_path, OPTION, resume=True) is None  # killed before the first checkpoint
    checkpoint(tmp_path, "9")
    newest = checkpoint(tmp_path, "10")
    checkpoint(tmp_path, "11", state="{")  # killed while it was written
    checkpoint(tmp_path, "best")
    (tmp_path / CHECKPOINTS / "checkpoint-12").mkdir()
    assert claim(tmp_path, OPTION, resume=True) == newest


def test_other_uses_of_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to resume"):
        claim(tmp_path, OPTION, resume=True)
    claim(tmp_path, OPTION, resume=False)
    with pytest.raises(DataError, match=r"unfinished.*--resume"):
        claim(tmp_path, OPTION, resume=False)
    with pytest.raises(
        DataError, match=r"other options: lr, recipe .first: lr=0.1 there, 0.2 here"
    ):
        claim(tmp_path, {**OPTION, "lr": 0.2, "recipe": {"seed": 1}}, resume=True)
    (tmp_path / OPTIONS).write_text("{")
    with pytest.raises(DataError, match="torn"):
        claim(tmp_path, OPTION, resume=True)
    (tmp_path / RECORD).touch()
    for resume in (False, True):
        with pytest.raises(DataError, match="finished training run"):
            claim(tmp_path, OPTION, resume=resume)


def test_other_peoples_folders_and_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataError, match="not empty and holds no training run"):
        claim(tmp_path, OPTION, resume=False)
    with pytest.raises(DataError, match="is a file"):
        claim(tmp_path / "thesis.tex", OPTION, resume=False)
    with pytest.raises(DataError, match="Cannot write to"):
        claim(Path("/proc/nowhere"), OPTION, resume=False)
