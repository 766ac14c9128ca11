"""Controls of the prefix-guided methods, which do the same without the gradient."""

from __future__ import annotations

import math
from typing import Any

from run_folders import record

from nabla_eval.analysis.controls import controls_of
from nabla_eval.analysis.runs import Run


def make(name: str, method: str, base: dict[str, Any], **changes: Any) -> Run:
    config = {**base, **changes}
    records = [record(i, method=method, config=config, drafts=(0.0,)) for i in range(4)]
    return Run.of(name, records, {f"toy/{i}": [1.0] for i in range(4)}, math.nan)


def test_a_prefix_gradient_stands_beside_what_does_without() -> None:
    options = {"guidance": "eager", "beta": 3.0, "confidence": 0.97}
    ours = make("ours", method="prefix_gradient", base=options)
    flipped = make("flipped", method="prefix_gradient", base=options, beta=-3.0)
    lazy = make("lazy", method="prefix_gradient", base=options, beta=-3.0, guidance="lazy")
    exact = make("exact", method="exact_top_k", base={"beta": 3.0, "confidence": 0.97})
    bold = make("bold", method="exact_top_k", base={"beta": 3.0, "confidence": 0.5})
    tried = make("tried", method="sequential_verify", base={"confidence": 0.97})
    runs = [bold, ours, lazy, flipped, exact, tried]
    assert controls_of(ours, runs) == [
        ("exact scores", exact), ("verification", tried), ("sign flipped", flipped),
    ]  # fmt: skip
    assert ("sign flipped", ours) not in controls_of(flipped, runs)
    assert controls_of(exact, runs) == []


def test_a_repair_stands_beside_the_same_one_by_another_chooser() -> None:
    options = {"chooser": "prefix_gradient", "n": 8}
    ours = make("ours", method="locate_repair", base=options)
    policy = make("policy", method="locate_repair", base=options, chooser="policy")
    exact = make("exact", method="locate_repair", base=options, chooser="exact_top_k")
    four = make("four", method="locate_repair", base=options, chooser="policy", n=4)
    assert controls_of(ours, [four, ours, exact, policy]) == [
        ("chooser π", policy), ("chooser exact scores", exact),
    ]  # fmt: skip
    assert controls_of(policy, [ours, policy]) == []
