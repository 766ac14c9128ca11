"""The majority of samples."""

from __future__ import annotations

from nabla_eval.methods.samples import majority


def test_majority_ignores_samples_without_an_answer_and_prefers_the_first_seen():
    assert majority([r"\boxed{3}", r"\boxed{4}", r"so \boxed{4.0}"]) == 1
    assert majority(["no idea", r"\boxed{1}", r"\boxed{2}"]) == 1
    assert majority(["no idea", "no idea"]) == 0
