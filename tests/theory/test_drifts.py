"""Wrong drifts: every row that rests on simulated particles must notice them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from theory import checks
from theory.checks import Context
from theory.targets import Target

DRIFT = Target.drift
WRONG: dict[str, Callable[[Target, Tensor], Tensor]] = {
    "halved": lambda target, x: 0.5 * DRIFT(target, x),
    "zero": lambda target, x: torch.zeros_like(x),
    "printed": lambda target, x: -DRIFT(target, x),
}
# Claims all of whose rows rest on particles, and of other claims those rows that do.
WHOLE = ("particles_agree", "particles_in_distribution", "no_noise")
ROWS = {
    "ou_moments": ("euler", "continuous"),
    "euler_stationary": ("particles",),
    "bias_order": ("gaussian", "constant"),
    "sign_error": ("correct",),
    "mala_unbiased": ("particles",),
    "wasserstein_contraction": ("particles",),
    "mixing_time": ("particles",),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("claim", [*WHOLE, *ROWS])
def test_every_particle_row_notices(
    wrong: str, claim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Target, "drift", WRONG[wrong])
    rows = checks.run_claim(claim, Context())
    named = [row for row in rows if claim in WHOLE or row.name.split("/")[1] in ROWS[claim]]
    assert len(named) == (len(rows) if claim in WHOLE else len(ROWS[claim]))
    assert [row.name for row in named if row.passed] == []


def test_a_tenth_less_drift_is_seen_in_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "drift", lambda target, x: 0.9 * DRIFT(target, x))
    assert [row.name for row in checks.run_claim("particles_agree", Context()) if row.passed] == []
