"""Optimisers of DTO, one file each; the file's name is the value of the option `optimizer`.

A new file is a new optimiser, and nothing else has to be touched. A dotted name
(`optimizer=my_package.lion`) takes a module from elsewhere. Such a module holds

    init(parameters) -> state             tensors of R rows, the state before the first step
    step(parameters, gradient, state, *factors) -> (parameters, state)
    reach(dto, rates) -> float            bound on the |change| of any parameter over the T steps,
                                          whatever the gradients; None where there is none
    factors(rate, count) -> floats        optional: what a step after `count` steps multiplies by,
                                          made in double precision; by default the rate alone
    REFERENCE                             optional: the class in torch.optim with the same steps

`step` is elementwise, so a row's path does not depend on its neighbours. Without a `reach` nothing
is certified (`dto.certify`). `engine/naive.py` runs the REFERENCE, or `step` on one row at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from torch import Tensor

from nabla_eval.options import DTO

State = tuple[Tensor, ...]  # each [R, N]


@dataclass(frozen=True)
class Optimiser:
    """The functions of an optimiser's module."""

    init: Callable[[Tensor], State]
    step: Callable[..., tuple[Tensor, State]]
    reach: Callable[[DTO, list[float]], float] | None
    factors: Callable[[float, int], tuple[float, ...]]
    reference: Any = None


@cache
def optimiser(name: str) -> Optimiser:
    """Import the optimiser that the option `optimizer` names."""
    module = import_module(name if "." in name else f"{__name__}.{name}")
    factors = getattr(module, "factors", lambda rate, count: (rate,))
    reference = getattr(module, "REFERENCE", None)
    return Optimiser(module.init, module.step, module.reach, factors, reference)
