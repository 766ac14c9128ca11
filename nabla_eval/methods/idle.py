"""Options that are legal and leave nothing of the method that was asked for."""

from __future__ import annotations

from typing import Any

from nabla_eval.methods.beam import Beam
from nabla_eval.methods.best_of_n import BestOfN, WeightedBestOfN
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.methods.rap import Rap
from nabla_eval.methods.self_consistency import SelfConsistency
from nabla_eval.methods.tpo import Tpo
from nabla_eval.methods.tree_of_thought import TreeOfThought

_SAMPLERS = (Beam, BestOfN, Rap, SelfConsistency, Tpo, TreeOfThought, WeightedBestOfN)


def idle(config: Any) -> str | None:
    """Which option keeps the method from doing what it is for, and what is left; None if none does.

    `steps=0`, the twin, is a method of its own.
    """
    match config:
        case Nabla(n=1):
            return "n=1 is the draft alone, nothing is refined"
        case Nabla(lam=0, nll_weight=0) if config.steps > 0:
            return "lam=0 with nll_weight=0 has no gradient: it is the twin (steps=0) at its cost"
        case BestOfN(n=1) | WeightedBestOfN(n=1) | SelfConsistency(n=1):
            return "n=1 is one sample, there is nothing to choose from"
        case Tpo(samples=1):
            return "samples=1 is one response, there is nothing to compare it with"
        case Tpo(iterations=0):
            return "iterations=0 revises nothing: it is best-of-N with n=samples"
        case Beam(beams=1, width=1):
            return "beams=1 with width=1 is one sample, there is nothing to choose from"
        case TreeOfThought(proposals=1):
            return "proposals=1 is one response, there is nothing to choose from"
        case Rap(branching=1):
            return "branching=1 is one response, there is nothing to search"
    if isinstance(config, _SAMPLERS) and not _proposes(config):
        sampling = config.sampling
        if sampling.temperature == 0 or sampling.top_k == 1:
            name = "temperature=0" if sampling.temperature == 0 else "top_k=1"
            return f"{name} makes all samples alike, there is nothing to choose from"
    return getattr(config, "idle", None)  # experimental methods know it themselves


def _proposes(config: Any) -> bool:
    """Whether the policy lists different steps in one reply, which no sampling makes alike."""
    return isinstance(config, TreeOfThought) and config.generation == "propose"
