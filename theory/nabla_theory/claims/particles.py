"""One side of the duality: particles in the space of responses reach ρ* (Theorem 4.1)."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import torch
from scipy import stats

from nabla_theory import (
    fokker_planck,
    free_energy,
    langevin,
    noise,
    policy,
    routes,
    targets,
    transition,
)
from nabla_theory.checks import (
    FAILURE_PROBABILITY,
    Check,
    Context,
    at_least,
    at_most,
    close,
    t_within_error,
    within_error,
)
from nabla_theory.fokker_planck import Grid
from nabla_theory.targets import SETTINGS

PARTICLES = 10_000
EXACT_SAMPLES = 30


def particles_agree(context: Context) -> list[Check]:
    """ULA particles that start at π reach E[r], E[L], KL and -log Z of ρ* as h → 0."""
    rows = []
    for name in routes.STEPS:
        setting = SETTINGS[name]
        best = free_energy.optimum(setting.target, setting.box)
        cloud = routes.by_particles(name, context.seed, context.device)
        seen = {key: found.value for key, found in cloud.found.items()}
        rows.append(
            within_error(
                f"particles_agree/{name}",
                f"E[r]={best.reward:.4f}, E[L]={best.potential:.4f}, KL={best.kl:.4f}, "
                f"-log Z={-best.log_z:.4f} (quadrature); ULA, 2E_h/2 - E_h, {cloud.steps} steps: "
                + ", ".join(f"{value:.4f}" for value in seen.values()),
                cloud.scores(best),
                "; half the last correction in h and the start's remainder subtracted",
            )
        )
    return rows


def particles_in_distribution(context: Context) -> list[Check]:
    """Not only three numbers agree: whole samples do, by MMD in blocks and by W₂."""
    target = targets.target("mixture-2d", "linear-2d", 0.8)
    solution = targets.closed_form(target)
    assert solution is not None
    x0 = target.density.sample(context.seed, "mmd/start", 6000)
    run = langevin.simulate(target, x0, 0.01, [1000], seed=context.seed, stream="mmd")
    exact = solution[1].sample(context.seed, "mmd/exact", 6000)
    distance = free_energy.sliced_wasserstein2(run.last, exact)
    between = [
        free_energy.sliced_wasserstein2(
            solution[1].sample(context.seed, f"sliced/{k}", 6000), exact
        )
        for k in range(EXACT_SAMPLES)
    ]
    line = SETTINGS["mixture-quadratic"]
    grid = Grid(line.box, (2000,))
    start = line.target.density.sample(context.seed, "w2/start", 10000)
    moved = langevin.simulate(
        line.target, start, 0.01, [1600], seed=context.seed, stream="w2/ula"
    ).last
    star, law = grid.optimum(line.target), targets.closed_form(line.target)
    assert law is not None
    to_law = [
        free_energy.wasserstein2_to_grid(law[1].sample(context.seed, f"w2/{k}", 10000), star, grid)
        for k in range(EXACT_SAMPLES)
    ]
    return [
        t_within_error(
            "particles_in_distribution/mmd",
            "MMD² of ULA particles (h = 0.01) and exact draws of ρ* (plane mixture, linear r) "
            f"in 60 blocks; of their start π it is {_block_z(x0, exact):.0f}",
            _block_z(run.last, exact),
            59,
        ),
        _like_exact(
            "particles_in_distribution/sliced_w2",
            "sliced W₂ of particles to exact draws, among that of exact draws to exact draws",
            distance,
            between,
        ),
        _like_exact(
            "particles_in_distribution/w2_line",
            "W₂ of particles to ρ* on the line, among that of exact draws",
            free_energy.wasserstein2_to_grid(moved, star, grid),
            to_law,
        ),
    ]


def _like_exact(name: str, statement: str, distance: float, exact: list[float]) -> Check:
    """Return whether a distance lies where those of exact samples say that the next one must."""
    count = len(exact)
    limit = float(stats.t.isf(FAILURE_PROBABILITY, count - 1)) * math.sqrt(1 + 1 / count)
    score = (distance - np.mean(exact)) / np.std(exact, ddof=1)
    why = f"one-sided t prediction interval of {count} exact samples, p ≤ {FAILURE_PROBABILITY:g}"
    statement += ": deviation"
    return at_most(name, statement, limit, float(score), why, chance=FAILURE_PROBABILITY)


def _block_z(a: torch.Tensor, b: torch.Tensor, size: int = 100) -> float:
    """|mean| over standard error of unbiased MMD² on disjoint blocks."""
    blocks = zip(a.split(size), b.split(size), strict=True)
    values = np.array([free_energy.mmd2(x, y, bandwidth=1.0) for x, y in blocks])
    return float(abs(values.mean()) / (values.std(ddof=1) / math.sqrt(len(values))))


def mixing_time(context: Context) -> list[Check]:
    """A deep double well: one optimum, but Langevin needs e^barrier to find it."""
    target = targets.target("deep-well", "linear-1d", 0.5)
    grid = Grid(((-2.9, 2.9),), (400,))
    gap = float(fokker_planck.slowest_rates(target, grid)[1])
    star = grid.optimum(target)
    right = grid.axes[0] > 0
    optimum = float(star[right].sum() * grid.volume)
    rho = grid.normalise(-target.potential(grid.points))
    rho[right] = 0.0  # the left well's own equilibrium
    rho /= rho.sum() * grid.volume
    h, steps = 0.01, 500
    dt, shares = 0.02, []
    for now in islice(fokker_planck.evolve(fokker_planck.generator(target, grid), rho, dt), 1500):
        shares.append(float(now[right].sum() * grid.volume))
    times = dt * np.arange(1, len(shares) + 1)
    late = times > 5
    slope = -np.polyfit(times[late], np.log(optimum - np.array(shares)[late]), 1)[0]
    share, expected = _particles_crossing(target, h, steps, context)
    error = math.sqrt(expected * (1 - expected) / PARTICLES)
    policy_path = next(islice(policy.natural_gradient(target, grid, 0.5), 39, None))
    return [
        close(
            "mixing_time/rate",
            f"the right well fills at the spectral gap (relaxation time {1 / gap:.0f}): rate",
            gap,
            float(slope),
            0.02 * gap,
            "2 %: implicit Euler, second mode gone by t=5",
        ),
        within_error(
            "mixing_time/particles",
            f"ULA from the left well, t={h * steps:g}: share in the right well {share:.3f}, exact "
            f"kernel {expected:.3f}, ρ* {optimum:.3f}; z-score against the exact kernel",
            [(share - expected) / error],
        ),
        at_least(
            "mixing_time/not_there_yet",
            "at that time the exact kernel still has this share of the way before it",
            0.99 * math.exp(-gap * h * steps),
            (optimum - expected) / optimum,
            "e^{-gap·t} is left of the slow mode; the faster ones carry under 1 %",
        ),
        close(
            "mixing_time/policy",
            "40 natural-gradient steps of the softmax policy put ρ*'s share in the right well",
            optimum,
            float(policy_path[right].sum() * grid.volume),
            1e-9,
            "2^-40 of the start",
        ),
    ]


def _particles_crossing(
    target: targets.Target, h: float, steps: int, context: Context
) -> tuple[float, float]:
    """The share of ULA particles right of 0, simulated and by the exact transition matrix."""
    x = transition.nodes(-2.9, 2.9, 401)
    start = transition.target_mass(target, x)
    start[x > -1e-9] = 0.0
    start /= start.sum()
    u = noise.uniform(context.seed, "mixing/start", 0, (PARTICLES,)).numpy()
    x0 = x[np.minimum(np.searchsorted(start.cumsum(), u), len(x) - 1)]
    run = langevin.simulate(
        target,
        torch.from_numpy(x0).unsqueeze(-1),
        h,
        [steps],
        seed=context.seed,
        stream="mixing",
        device=context.device,
    )
    law = start @ np.linalg.matrix_power(transition.ula_matrix(target, x, h), steps)
    expected = law[x > 1e-9].sum() + 0.5 * law[np.abs(x) <= 1e-9].sum()
    return float((run.last > 0).double().mean()), float(expected)
