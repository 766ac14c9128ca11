"""Langevin dynamics dX = -∇L(X) dt + √2 dW with batched particles: ULA, MALA, and no noise.

A kernel is `init` and a function `step(state, target, field, h, draw) -> state`; what happened in a
step is `diagnose(before, after)`, which no kernel reads back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from nabla_theory import noise
from nabla_theory.targets import Target

RUNAWAY_RADIUS = 1e3  # no target of the registry holds 1e-12 of its mass beyond it


class State(NamedTuple):
    """Particles with what the next step needs of them."""

    position: Tensor  # [N, d]
    drift: Tensor  # [N, d]
    potential: Tensor | None  # [N]; only MALA needs it


class Info(NamedTuple):
    """Diagnostics of one step, averaged over the particles."""

    acceptance: float  # share of accepted proposals, 1 without a test
    drift_norm: float  # mean |drift|
    runaway: float  # share of particles beyond RUNAWAY_RADIUS or not finite


class Draw(NamedTuple):
    """The randomness of one step."""

    normal: Tensor  # [N, d]
    uniform: Tensor  # [N]


Field = Callable[[Tensor], Tensor]
Step = Callable[[State, Target, Field, float, Draw], State]


def noise_scale(h: float) -> float:
    """√(2h): the standard deviation of the noise of one step."""
    return math.sqrt(2 * h)


def euler_mean(position: Tensor, drift: Tensor, h: float) -> Tensor:
    """x + h b(x): where Euler's method puts the mean of the next step; [N, d]."""
    return position + h * drift


def log_acceptance(before: State, after: State, h: float) -> Tensor:
    """log of the Metropolis-Hastings ratio ρ*(y) q(x|y) / (ρ*(x) q(y|x)) of MALA; [N]."""
    if before.potential is None or after.potential is None:
        raise ValueError("MALA needs the potential: make the state with init(..., 'mala').")
    forward = after.position - euler_mean(before.position, before.drift, h)
    backward = before.position - euler_mean(after.position, after.drift, h)
    proposal = ((forward**2).sum(-1) - (backward**2).sum(-1)) / (4 * h)
    return before.potential - after.potential + proposal


def ula_step(state: State, target: Target, field: Field, h: float, draw: Draw) -> State:
    """The unadjusted Langevin algorithm (Euler-Maruyama): y = x + h b(x) + √(2h) ξ."""
    position = euler_mean(state.position, state.drift, h) + noise_scale(h) * draw.normal
    return State(position, field(position), None)


def mala_step(state: State, target: Target, field: Field, h: float, draw: Draw) -> State:
    """The Metropolis-adjusted Langevin algorithm: ULA's proposal, accepted or refused."""
    position = euler_mean(state.position, state.drift, h) + noise_scale(h) * draw.normal
    proposed = State(position, field(position), target.potential(position))
    accept = draw.uniform.log() < log_acceptance(state, proposed, h)
    column = accept.unsqueeze(-1)
    assert state.potential is not None and proposed.potential is not None
    return State(
        torch.where(column, proposed.position, state.position),
        torch.where(column, proposed.drift, state.drift),
        torch.where(accept, proposed.potential, state.potential),
    )


def flow_step(state: State, target: Target, field: Field, h: float, draw: Draw) -> State:
    """Gradient flow without noise, y = x + h b(x): it ends in modes of ρ*, not in ρ*."""
    position = euler_mean(state.position, state.drift, h)
    return State(position, field(position), None)


KERNELS: dict[str, Step] = {"ula": ula_step, "mala": mala_step, "flow": flow_step}


def init(position: Tensor, target: Target, kernel: str, field: Field) -> State:
    """The first state of a kernel."""
    if kernel not in KERNELS:
        raise ValueError(f"There is no kernel {kernel!r}; there are {', '.join(KERNELS)}.")
    potential = target.potential(position) if kernel == "mala" else None
    return State(position, field(position), potential)


def diagnose(before: State, after: State, kernel: str) -> Info:
    """Return what happened in one step."""
    moved = 1.0
    if kernel == "mala":
        moved = (before.position != after.position).any(-1).double().mean().item()
    radius = after.position.norm(dim=-1)
    lost = ~(radius <= RUNAWAY_RADIUS)  # also where the radius is not a number
    return Info(moved, after.drift.norm(dim=-1).mean().item(), lost.double().mean().item())


@dataclass(frozen=True)
class Run:
    """Particles at the requested steps, with the diagnostics of those steps."""

    positions: dict[int, Tensor] = field(default_factory=dict)  # step -> [N, d]
    infos: dict[int, Info] = field(default_factory=dict)

    @property
    def last(self) -> Tensor:
        """The particles at the last recorded step; [N, d]."""
        return self.positions[max(self.positions)]

    @property
    def acceptance(self) -> float:
        """Mean acceptance over the recorded steps."""
        return sum(info.acceptance for info in self.infos.values()) / len(self.infos)


def simulate(
    target: Target,
    start: Tensor,
    h: float,
    record: Sequence[int],
    *,
    kernel: str = "ula",
    seed: int = 0,
    stream: str = "langevin",
    printed_signs: bool = False,
    device: str = "cpu",
) -> Run:
    """Run `start` [N, d] for max(record) steps of size `h` and keep the recorded ones.

    Stops early, with the step recorded, once every particle has run away. `printed_signs` takes
    the drift of Eq. 23's middle member. Raises ValueError for an unknown kernel or h <= 0.
    """
    if h <= 0:
        raise ValueError(f"The step size must be positive, got {h}.")
    drift: Field = target.printed_drift if printed_signs else target.drift
    state = init(start.to(device), target, kernel, drift)
    run = Run({0: state.position} if 0 in record else {}, {})
    wanted, noiseless = set(record), kernel == "flow"
    for n in range(1, max(record) + 1):
        draw = _draw(state.position.shape, seed, stream, n, device, kernel, noiseless)
        previous, state = state, KERNELS[kernel](state, target, drift, h, draw)
        if n in wanted:
            run.positions[n] = state.position
            run.infos[n] = diagnose(previous, state, kernel)
            if run.infos[n].runaway == 1.0:
                break
    return run


def coupled(
    target: Target,
    start: Tensor,
    h: float,
    steps: int,
    *,
    seed: int = 0,
    stream: str = "coupled",
    device: str = "cpu",
) -> tuple[Tensor, Tensor]:
    """ULA particles [N, d] after `steps` steps of `h`, and after twice as many of h/2.

    Both follow one Brownian path, so 2 f(fine) - f(coarse) is hardly noisier than f, and its mean
    errs by O(h²) only (Talay and Tubaro 1990). Nothing corrects the drift, as MALA's test would.
    """
    field, nothing = target.drift, torch.empty(0)
    coarse = fine = init(start.to(device), target, "ula", field)
    for n in range(1, steps + 1):
        halves = [noise.normal(seed, stream, 2 * n - k, tuple(start.shape), device) for k in (1, 0)]
        for half in halves:
            fine = ula_step(fine, target, field, h / 2, Draw(half, nothing))
        whole = (halves[0] + halves[1]) / math.sqrt(2)
        coarse = ula_step(coarse, target, field, h, Draw(whole, nothing))
    return coarse.position, fine.position


def _draw(
    shape: torch.Size, seed: int, stream: str, n: int, device: str, kernel: str, noiseless: bool
) -> Draw:
    nothing = torch.empty(0)
    if noiseless:
        return Draw(nothing, nothing)
    normal = noise.normal(seed, stream, n, tuple(shape), device)
    if kernel != "mala":
        return Draw(normal, nothing)
    return Draw(normal, noise.uniform(seed, f"{stream}/accept", n, (shape[0],), device))
