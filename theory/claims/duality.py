"""The duality: particles, Fokker-Planck and policy optimisation reach one optimum (Theorem 4.1)."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import torch
from scipy import stats

from theory import fokker_planck, free_energy, langevin, noise, policy, targets, transition
from theory.checks import (
    FAILURE_PROBABILITY,
    Check,
    Context,
    at_least,
    at_most,
    close,
    sampling,
    z_limit,
)
from theory.fokker_planck import Grid
from theory.targets import SETTINGS, Setting

PARTICLES = 10_000
EXACT_SAMPLES = 30
# MALA steps until what is left of the start is below the sampling error, and whether the
# left-over is known exactly (1-D, by the transition matrix) or by Fokker-Planck.
STEPS = {
    "gaussian-linear": 30,
    "gaussian-ripple": 250,
    "mixture-quadratic": 300,
    "well-linear": 250,
    "student-bounded": 80,
    "gaussian2d-quadratic": 40,
    "mixture2d-bounded": 160,
    "banana-ripple": 250,
}
# Components and spread of the mixture policy; ρ* is in the family where the last entry says so.
FAMILIES = {
    "gaussian-linear": (1, 1.0, True),
    "gaussian-ripple": (6, 1.5, False),
    "mixture-quadratic": (2, 1.0, True),
    "well-linear": (4, 1.2, False),
    "student-bounded": (4, 1.0, False),
    "gaussian2d-quadratic": (1, 1.0, True),
    "mixture2d-bounded": (4, 1.0, False),
    "banana-ripple": (6, 1.0, False),
}


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
    for name, steps in STEPS.items():
        setting = SETTINGS[name]
        best = free_energy.optimum(setting.target, setting.box)
        left_reward, left_energy = relaxed_residual(setting, steps)
        x0 = setting.target.density.sample(context.seed, f"agree/{name}", PARTICLES)
        run = langevin.simulate(
            setting.target,
            x0,
            setting.step,
            [steps // 2, steps],
            kernel="mala",
            seed=context.seed,
            stream=f"agree/{name}",
            device=context.device,
        )
        found = free_energy.of_samples(run.last, setting.target)
        left_kl = abs(setting.target.lam) * left_reward + left_energy
        deviations = {
            "reward": abs(found["reward"].value - best.reward) - left_reward,
            "kl": abs(found["kl"].value - best.kl) - left_kl,
            "free_energy": abs(found["free_energy"].value + best.log_z) - left_energy,
        }
        scores = [max(0.0, gap) / found[key].error for key, gap in deviations.items()]
        rows.append(
            at_most(
                f"particles_agree/{name}",
                f"E[r]={best.reward:.4f}, KL={best.kl:.4f}, -log Z={-best.log_z:.4f} (quadrature); "
                f"particles {found['reward'].value:.4f}, {found['kl'].value:.4f}, "
                f"{found['free_energy'].value:.4f}; acceptance {run.acceptance:.2f}, {steps} steps",
                z_limit(3),
                max(scores),
                sampling(3)
                + f"; the start's remainder in E[r] ({left_reward:.0e}) computed and subtracted",
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
        at_most(
            "particles_in_distribution/mmd",
            "MMD² of particles and exact draws of ρ* (mixture, plane, linear reward): z-score",
            z_limit(1),
            scores["mala"],
            sampling(1) + ", over 60 blocks of 100",
        ),
        at_least(
            "particles_in_distribution/power",
            "the same test tells π from ρ*",
            2 * z_limit(1),
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
    return at_most(name, statement + ": deviation", limit, float(score), why)


def _block_z(a: torch.Tensor, b: torch.Tensor, size: int = 100) -> float:
    """|mean| over standard error of unbiased MMD² on disjoint blocks."""
    blocks = zip(a.split(size), b.split(size), strict=True)
    values = np.array([free_energy.mmd2(x, y, bandwidth=1.0) for x, y in blocks])
    return float(abs(values.mean()) / (values.std(ddof=1) / math.sqrt(len(values))))


def worst_gap(rho: np.ndarray, setting: Setting, grid: Grid) -> float:
    """The largest difference of E[r], KL and L_PPO from the quadrature's optimum."""
    target = setting.target
    best = free_energy.optimum(target, setting.box)
    reward = float(rho @ target.reward.value(grid.points).numpy()) * grid.volume
    energy = free_energy.on_grid(rho, target, grid)
    kl = energy + target.lam * reward
    return max(abs(reward - best.reward), abs(kl - best.kl), abs(energy + best.log_z))


def _grid(setting: Setting) -> Grid:
    cells = setting.cells if setting.target.dim == 1 else min(setting.cells, 90)
    return Grid(setting.box, (cells,) * setting.target.dim)


def fokker_planck_agrees(context: Context) -> list[Check]:
    """The density flow from π reaches E[r], KL and -log Z of ρ*."""
    rows = []
    for name, setting in SETTINGS.items():
        grid = _grid(setting)
        gap = float(fokker_planck.slowest_rates(setting.target, grid)[1])
        rho = grid.normalise(setting.target.density.log_prob(grid.points))
        A = fokker_planck.generator(setting.target, grid)
        final = next(islice(fokker_planck.evolve(A, rho, 1 / gap), 39, None))
        rows.append(
            close(
                f"fokker_planck_agrees/{name}",
                "largest gap of E[r], KL and L_PPO to quadrature after 40 relaxation times of "
                f"{1 / gap:.2f}",
                0.0,
                worst_gap(final, setting, grid),
                1e-7,
                "2^-40 of the start; cell sums of smooth densities; mass outside the box",
            )
        )
    return rows


def softmax_policy_agrees(context: Context) -> list[Check]:
    """KL-regularised policy gradient on a softmax policy reaches the same three numbers."""
    rows = []
    for name, setting in SETTINGS.items():
        target, grid = setting.target, _grid(setting)
        final = next(islice(policy.natural_gradient(target, grid, 0.5), 39, None))
        coarse = Grid(setting.box, ((80,) if target.dim == 1 else (26, 26)))
        reached, iterations = policy.plain_gradient(target, coarse)
        start = coarse.normalise(target.density.log_prob(coarse.points))
        star = coarse.optimum(target)
        left = free_energy.kl(reached, star, coarse.volume)
        rows += [
            close(
                f"softmax_policy_agrees/natural[{name}]",
                "largest gap of E[r], KL and L_PPO to quadrature, 40 natural-gradient steps of ½",
                0.0,
                worst_gap(final, setting, grid),
                1e-7,
                "log ρ/ρ* shrinks by ½ a step: 2^-40; cell sums; mass outside the box",
            ),
            at_most(
                f"softmax_policy_agrees/plain[{name}]",
                f"L_PPO + log Z after {iterations} L-BFGS steps on the plain gradient, over that "
                "of π (both on the same cells)",
                1e-3,
                left / free_energy.kl(start, star, coarse.volume),
                "99.9 % of the way; the gradient of a cell is ∝ its mass, so tails come last",
            ),
        ]
    return [*rows, _geometric_path()]


def _geometric_path() -> Check:
    """The natural gradient follows log ρ_n = (1-η)^n log π + (1 - (1-η)^n) log ρ* + const."""
    setting = SETTINGS["well-linear"]
    grid = Grid(setting.box, (200,))
    rate, steps = 0.1, 25
    found = next(islice(policy.natural_gradient(setting.target, grid, rate), steps - 1, None))
    left = (1 - rate) ** steps
    partial = targets.Target(
        setting.target.density, setting.target.reward, (1 - left) * setting.target.lam
    )
    return close(
        "softmax_policy_agrees/path",
        "natural gradient passes through π e^{s λ r}/Z_s, s = 1 - (1-η)^n: no barrier slows it",
        0.0,
        float(np.abs(np.log(found / grid.optimum(partial))).max()),
        1e-10,
        "rounding; an identity",
    )


def mixture_policy_agrees(context: Context) -> list[Check]:
    """Gaussian and mixture policies reach -log Z when they can, and stay above it when not."""
    rows = []
    for name, (components, spread, holds) in FAMILIES.items():
        setting = SETTINGS[name]
        cells = (600,) if name == "student-bounded" else (200,)
        grid = Grid(setting.box, cells if setting.target.dim == 1 else (64, 64))
        found = policy.mixture_gradient(setting.target, grid, components, spread)
        rho = found.log_prob(grid.points).exp().detach().numpy()
        gap = free_energy.on_grid(rho, setting.target, grid)
        gap += free_energy.optimum(setting.target, setting.box).log_z
        if holds:
            rows.append(
                close(
                    f"mixture_policy_agrees/{name}",
                    f"largest gap of E[r], KL, L_PPO; {components} component(s), ρ* in the family",
                    0.0,
                    worst_gap(rho, setting, grid),
                    1e-6,
                    "√(line search's relative change of 1e-15) in E[r], of size 1",
                )
            )
            continue
        divergence = free_energy.kl(rho, grid.optimum(setting.target), grid.volume)
        rows.append(
            close(
                f"mixture_policy_agrees/{name}",
                f"{components} components cannot be ρ*: L_PPO + log Z = KL(ρ_θ‖ρ*) = {gap:.1e} > 0",
                divergence,
                gap,
                1e-6,
                "cell sums of two smooth densities; mass of ρ_θ outside the box",
            )
        )
    return rows


def ppo_agrees(context: Context) -> list[Check]:
    """PPO, which sees only samples, reaches ρ* too."""
    options = policy.PPO()
    rows = []
    for name in ("gaussian-linear", "gaussian2d-quadratic"):
        setting = SETTINGS[name]
        grid = _grid(setting)
        start = policy.start_policy(setting.target, 1, 1.0)
        found = policy.ppo(setting.target, start, options, context.seed)
        rho = found.log_prob(grid.points).exp().detach().numpy()
        parameters = found.means.numel() + found.means.shape[1] * (found.means.shape[1] + 1) // 2
        rows.append(
            at_most(
                f"ppo_agrees/{name}",
                f"KL(ρ_θ‖ρ*) after {options.iterations} iterations of {options.batch} samples",
                parameters * (options.epochs * options.min_lr) ** 2,
                free_energy.kl(rho, grid.optimum(setting.target), grid.volume),
                "p (epochs·lr)²: what one iteration at the last rate can move, Fisher metric ≤ 2",
            )
        )
    rows.append(_no_noise_at_optimum(context))
    return rows


def _no_noise_at_optimum(context: Context) -> Check:
    """At ρ* the advantage is log Z for every sample: PPO's gradient has no noise there."""
    target = SETTINGS["mixture2d-bounded"].target
    x = target.density.sample(context.seed, "advantage", 1000)
    log_z = free_energy.optimum(target, SETTINGS["mixture2d-bounded"].box).log_z
    log_star = -target.potential(x) - log_z
    gain = policy.advantage(
        target.reward.value(x).numpy(),
        target.density.log_prob(x).numpy(),
        log_star.numpy(),
        target.lam,
    )
    return close(
        "ppo_agrees/advantage",
        "at ρ* the advantage λr - log ρ*/π is log Z for every sample: largest difference",
        0.0,
        float(np.abs(gain - log_z).max()),
        1e-10,
        "rounding of logarithms",
    )


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
        at_most(
            "mixing_time/particles",
            f"ULA from the left well, t={h * steps:g}: share in the right well {share:.3f}, exact "
            f"kernel {expected:.3f}, ρ* {optimum:.3f}; z-score against the exact kernel",
            z_limit(1),
            abs(share - expected) / error,
            sampling(1),
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
