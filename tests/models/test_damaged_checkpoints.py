"""Whatever stands in a checkpoint's files: it is loaded, or refused in words."""

from __future__ import annotations

import contextlib
import io
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from nabla_eval import embedded, load_pair
from nabla_eval.errors import ModelError
from nabla_eval.models.check import check_pair


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", "y")
    return buffer.getvalue()


class Trap:
    """Runs a function when it is unpickled by somebody who trusts it."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("foreign code ran",))


PICKLES = {
    "noise": b"\x00\xff" * 50, "empty": b"", "text": b"hello world\n", "end": b"\x80\x02",
    "code": pickle.dumps(Trap()), "code in torch's own": saved(Trap()), "protocol": b"\x80\x09.",
    "torn": saved({"a": torch.zeros(3)})[:-40], "a list": saved([1, 2]), "a zip": zipped(),
    "a number": pickle.dumps(5), "numpy": b"\x93NUMPY",
    "other weights": saved({"a": torch.zeros(3)}),
}  # fmt: skip


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(embedded.paths()[0], tmp_path / "policy"))


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_that_is_damaged_or_runs_code_is_refused(policy: Path, kind: str) -> None:
    (policy / "model.safetensors").unlink()
    (policy / "pytorch_model.bin").write_bytes(PICKLES[kind])
    with pytest.raises(ModelError, match="policy") as refusal:
        load_pair(policy, embedded.paths()[1], device="cpu", allow_pickle=True)
    assert str(policy) in str(refusal.value) and "\n" not in str(refusal.value)


JSONS = [b"", b"[]", b"5", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5_000]
FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]


@pytest.mark.parametrize("content", JSONS, ids=[repr(one[:8]) for one in JSONS])
@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_something_else_is_refused(policy: Path, file: str, content: bytes) -> None:
    (policy / file).write_bytes(content)
    with pytest.raises(ModelError, match="policy"):
        load_pair(policy, embedded.paths()[1], device="cpu")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"5", "policy's generation config"),
        (b"[" * 100_000, "policy's generation config"),
        (b'{"eos_token_id": "x"}', "eos_token_id is 'x'"),
        (b'{"top_k": [[]]}', ""),
    ],
)
def test_a_generation_config_that_is_wrong_is_refused(
    policy: Path, content: bytes, words: str
) -> None:
    (policy / "generation_config.json").write_bytes(content)
    with contextlib.suppress(ModelError):  # or it does not matter
        load_pair(policy, embedded.paths()[1], device="cpu")
    report = check_pair(str(policy), str(embedded.paths()[1]))
    failed = {found.name: found.text for found in report.findings if found.verdict == "failed"}
    assert words in failed.get("end of response", "")
