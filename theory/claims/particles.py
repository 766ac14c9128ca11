"""One side of the duality: particles in the space of responses reach ρ* (Theorem 4.1)."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import torch
from scipy import stats

from theory import fokker_planck, free_energy, langevin, noise, policy, routes, targets, transition
from theory.checks import (
    FAILURE_PROBABILITY,
    Check,
    Context,
    at_least,
    at_most,
    close,
    t_limit,
    t_within_error,
    within_error,
)
from theory.fokker_planck import Grid
from theory.targets import SETTINGS, Setting

PARTICLES = 10_000
EXACT_SAMPLES = 30


def relaxed_residual(setting: Setting, steps: int) -> tuple[float, float]:
    """How far E[r] and L_PPO still are from the optimum after MALA's steps from π, exactly or by
    Fokker-Planck at 0.7 of the nominal time, since refusals slow MALA down."""
    target = setting.target
    if target.dim == 1 and setting.cells <= 400:
        low, high = setting.box[0]
        reach = (-2.9, 2.9) if isinstance(target.density, targets.DoubleWell) else (low, high)
        x = transition.nodes(*reach, 301)
        points = torch.from_numpy(x).unsqueeze(-1)
        start = torch.softmax(target.density.log_prob(points), 0).numpy()
        P = transition.mala_matrix(target, x, setting.step)
        now, star = start @ np.linalg.matrix_power(P, steps), transition.target_mass(target, x)
        reward = target.reward.value(points).numpy()
        return abs((now - star) @ reward), free_energy.kl(np.maximum(now, 0), star, 1.0)
    grid = Grid(setting.box, (setting.cells // (2 if target.dim == 2 else 4),) * target.dim)
    rho = grid.normalise(target.density.log_prob(grid.points))
    dt = 0.7 * setting.step * steps / 60
    A = fokker_planck.generator(target, grid)
    now = next(islice(fokker_planck.evolve(A, rho, dt), 59, None))
    star = grid.optimum(target)
    reward = target.reward.value(grid.points).numpy()
    gap = abs((now - star) @ reward) * grid.volume
    return gap, free_energy.kl(np.maximum(now, 0), star, grid.volume)


def particles_agree(context: Context) -> list[Check]:
    """MALA particles that start at π reach E[r], KL and -log Z of ρ*."""
    rows = []
    for name, steps in routes.STEPS.items():
        setting = SETTINGS[name]
        best = routes.by_quadrature(setting)
        left_reward, left_energy = relaxed_residual(setting, steps)
        cloud = routes.by_particles(name, context.seed, context.device)
        seen, left_kl = cloud.numbers, abs(setting.target.lam) * left_reward + left_energy
        scores = [
            float(np.maximum(0.0, abs(value - goal) - left)) / estimate.error
            for value, goal, left, estimate in zip(
                seen, best, (left_reward, left_kl, left_energy), cloud.found.values(), strict=True
            )
        ]
        rows.append(
            within_error(
                f"particles_agree/{name}",
                f"E[r]={best.reward:.4f}, KL={best.kl:.4f}, -log Z={best.energy:.4f} (quadrature); "
                f"particles {seen.reward:.4f}, {seen.kl:.4f}, {seen.energy:.4f}; "
                f"acceptance {cloud.run.acceptance:.2f}, {steps} steps",
                scores,
                f"; the start's remainder in E[r] ({left_reward:.0e}) computed and subtracted",
            )
        )
    return rows


def particles_in_distribution(context: Context) -> list[Check]:
    """Not only three numbers agree: whole samples do, by MMD in blocks and by W₂."""
    target = targets.target("mixture-2d", "linear-2d", 0.8)
    solution = targets.closed_form(target)
    assert solution is not None
    x0 = target.density.sample(context.seed, "mmd/start", 6000)
    run = langevin.simulate(target, x0, 0.15, [200], kernel="mala", seed=context.seed, stream="mmd")
    exact = solution[1].sample(context.seed, "mmd/exact", 6000)
    scores = {name: _block_z(x, exact) for name, x in (("mala", run.last), ("start", x0))}
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
        line.target, start, line.step, [300], kernel="mala", seed=context.seed, stream="w2/mala"
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
            "MMD² of particles and exact draws of ρ* (mixture, plane, linear reward), 60 blocks",
            scores["mala"],
            59,
        ),
        at_least(
            "particles_in_distribution/power",
            "the same test tells π from ρ*",
            2 * t_limit(59),
            scores["start"],
            "twice the limit above",
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
    """Whether a distance lies where those of exact samples say that the next one must."""
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
            "at that time the particles are still this many standard errors from ρ*",
            100.0,
            (optimum - share) / error,
            "e^{-gap·t} of the way is left; the optimum is the same, the path is not",
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
