"""Which GPUs the processes of a sweep see."""

from __future__ import annotations

import pytest

from nabla_eval.errors import ConfigError
from nabla_eval.runs.devices import devices, shares


@pytest.mark.parametrize(
    ("names", "jobs", "expected"),
    [
        ("01234567", 8, ["0", "1", "2", "3", "4", "5", "6", "7"]),
        ("0123", 2, ["0,1", "2,3"]),
        ("01234567", 3, ["0,1,2", "3,4", "5,6,7"]),
        ("01", 5, ["0", "1", "0", "1", "0"]),
        ("3", 1, ["3"]),
        ("", 4, []),
    ],
)
def test_gpus_are_shared_out(names: str, jobs: int, expected: list[str]) -> None:
    assert shares(list(names), jobs) == expected
    if len(names) >= jobs:  # each to one job, and none is idle
        assert ",".join(expected) == ",".join(names)


@pytest.mark.parametrize(
    ("asked", "named", "expected"),
    [
        (None, "2,3", ["2", "3"]),
        ("cuda", "GPU-8932f937, GPU-d0ae1bcd", ["GPU-8932f937", "GPU-d0ae1bcd"]),
        (None, "1,-1,2", ["1"]),  # as CUDA reads it
        (None, "", []),
        ("cpu", "0,1", []),
    ],
)
def test_the_environment_says_which_gpus_there_are(asked, named, expected) -> None:
    assert devices(asked, {"CUDA_VISIBLE_DEVICES": named}) == expected


def test_without_a_word_torch_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices(None, {}) == ["0", "1"]


def test_one_gpu_by_number_cannot_be_shared_out() -> None:
    with pytest.raises(ConfigError, match=r"device: cuda:1 .* Write `device: cuda`"):
        devices("cuda:1", {})
