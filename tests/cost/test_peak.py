"""Peak memory of a run: what is read where, and its words."""

from __future__ import annotations

import sys

import pytest
import torch

from nabla_eval.cost.peak import PeakMemory, describe, larger
from nabla_eval.models.memory import Meter

CPU, ONE, TWO = torch.device("cpu"), torch.device("cuda:0"), torch.device("cuda:1")


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
def test_the_processs_largest_resident_set_grows_with_what_it_holds() -> None:
    before = Meter.start([CPU]).read()
    held = torch.ones(before["bytes"] // 4 + 2**24) if before else None  # more than all there was
    after = Meter.start([CPU]).read()
    assert before is not None and after is not None and held is not None
    assert after["of"] == "process"
    assert after["bytes"] > held.numel() * 4 > before["bytes"]


def test_gpus_are_reset_once_each_and_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    reset = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: 10 + gpu.index)
    meter = Meter.start([ONE, CPU, TWO, ONE])
    assert reset == [ONE, TWO]
    assert meter.read() == {"bytes": 21, "of": "gpu"}


def test_the_larger_of_two_parts_counts() -> None:
    small, big = PeakMemory(bytes=2**29, of="process"), PeakMemory(bytes=2**30, of="process")
    assert larger(small, big) == larger(big, small) == larger(None, big) == larger(big, None) == big
    assert larger(None, None) is None
    assert describe(small) == "0.50 GiB (resident set of the process)"
    assert describe(PeakMemory(bytes=3 * 2**30, of="gpu")) == "3.00 GiB (allocated on GPUs)"
