"""Registers the prefix-guided methods."""

from __future__ import annotations

from nabla_eval.experimental.guided import (
    ExactTopK,
    PrefixGradient,
    SequentialVerify,
    exact_top_k,
    prefix_gradient,
    sequential_verify,
)
from nabla_eval.experimental.locate_repair import LocateRepair, locate_repair
from nabla_eval.methods.registry import METHODS, SAMPLING_PRESETS, MethodSpec

METHODS.update({
    "prefix_gradient": MethodSpec(
        PrefixGradient, prefix_gradient,
        "one pass, guided by the gradient of prefix scores where the policy is unsure",
        samples=False, trial={"guidance": "lazy"},
    ),
    "locate_repair": MethodSpec(
        LocateRepair, locate_repair,
        "repair the token of the first bad prefix score, roll out again",
        trial={"n": 5, "temperature": 1.2, "error_below": 1.0},
        presets=SAMPLING_PRESETS,
    ),
    "sequential_verify": MethodSpec(
        SequentialVerify, sequential_verify,
        "one pass; unsure tokens are tried by falling probability until one scores well",
        samples=False,
    ),
    "exact_top_k": MethodSpec(
        ExactTopK, exact_top_k, "one pass; of k unsure tokens the best by exact prefix scores",
        samples=False,
    ),
})  # fmt: skip
