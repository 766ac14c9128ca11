"""All checks hold; statistical ones hold for many seeds; rows, selection and output behave."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

from nabla_eval.cli.main import main as nabla_eval_main
from nabla_theory import checks, claims
from nabla_theory.__main__ import main
from nabla_theory.alternatives import REJECTS
from nabla_theory.checks import Check, Context
from nabla_theory.claims import CLAIMS

# Claims whose rows depend on the seed, and the seeds that each must survive.
STATISTICAL = (
    "euler_stationary", "bias_order", "mala_unbiased", "sign_error", "prefix_sharing",
    "mixing_time",
)  # fmt: skip
COSTLY = (
    "ou_moments", "dto_reach", "exact_samples", "distances", "output_law", "discrete_rl",
    "no_optimum", "particles_agree",
)  # fmt: skip
SEEDS = 20


@cache
def rows_of(name: str) -> tuple[Check, ...]:
    return tuple(claims.run_claim(name, Context()))


@pytest.mark.parametrize("name", CLAIMS)
def test_the_claim_holds(name: str) -> None:
    rows = rows_of(name)
    assert rows
    for row in rows:
        assert row.passed, row
        assert row.name.startswith(f"{name}/")
        assert row.statement and row.why and row.rejects
        assert math.isfinite(row.expected) and math.isfinite(row.measured)
    alternatives = {row for row in REJECTS if row.startswith(f"{name}/")}
    assert alternatives <= {row.name.split("[")[0] for row in rows}


def test_every_alternative_belongs_to_a_claim() -> None:
    """`test_the_claim_holds` looks for its row."""
    assert {row.partition("/")[0] for row in REJECTS} <= set(CLAIMS)


@pytest.mark.parametrize("name", STATISTICAL)
def test_twenty_seeds_change_results_only_within_the_error(name: str) -> None:
    """At most four statistical rows a claim, each failing with p <= 1e-6: over 6 claims and 20
    seeds a sound package fails this test with probability below 5e-4."""
    measured = []
    for seed in range(SEEDS):
        rows = claims.run_claim(name, Context(seed=1000 + seed))
        assert all(row.passed for row in rows), (seed, [r.name for r in rows if not r.passed])
        measured.append(tuple(row.measured for row in rows))
    assert len(set(measured)) == SEEDS, "the seed reaches no draw"


@pytest.mark.slow
@pytest.mark.parametrize("name", COSTLY)
def test_costly_claims_hold_for_other_seeds(name: str) -> None:
    rows = claims.run_claim(name, Context(seed=1))
    assert all(row.passed for row in rows), [row.name for row in rows if not row.passed]


def test_seedless_claims_draw_nothing() -> None:
    """Those that are cheap enough to run twice; the names of the others are checked."""
    assert set(CLAIMS) >= claims.SEEDLESS
    for name in ("conservation", "transient_order", "records", "log_sobolev"):
        assert claims.run_claim(name, Context(seed=7)) == list(rows_of(name))


def test_seeds_repeat_what_draws(tmp_path: Path) -> None:
    options = ["--check", "wasserstein_contraction", "--check", "distances", "--seeds", "3"]
    result = CliRunner().invoke(main, [*options, "--json"])
    assert result.exit_code == 0, result.output
    repeats = {row["name"]: row for row in json.loads(result.stdout)["repeats"]}
    assert repeats["distances/mmd"]["held"] == repeats["distances/mmd"]["seeds"] == 3
    assert repeats["distances/mmd"]["lowest"] < repeats["distances/mmd"]["highest"]
    assert "wasserstein_contraction/gaussian" not in repeats


def test_a_failure_for_a_later_seed_sets_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    from nabla_theory.claims import baselines

    honest = baselines.records

    def fails_later(context: Context) -> list[Check]:
        return (
            honest(context)
            if context.seed == 0
            else [checks.close(row.name, "", 0.0, 1.0, 0.0, "") for row in honest(context)]
        )

    monkeypatch.setattr(claims, "SEEDLESS", frozenset())
    monkeypatch.setattr(baselines, "records", fails_later)
    assert CliRunner().invoke(main, ["--check", "records"]).exit_code == 0
    result = CliRunner().invoke(main, ["--check", "records", "--seeds", "2"])
    assert result.exit_code == 1
    assert "failed for some: records/enumeration (1)" in " ".join(result.output.split())


def test_the_stored_report_has_every_claim_and_figure(root: Path) -> None:
    from nabla_theory.figures import CAPTIONS, FIGURES

    folder = root / "reports" / "theory"
    stored = json.loads((folder / "checks.json").read_text())
    page = (folder / "README.md").read_text()
    assert {row["name"].split("/")[0] for row in stored["checks"]} == set(CLAIMS)
    assert stored["failed"] == []
    assert set(CAPTIONS) == set(FIGURES)
    for name in FIGURES:
        assert (folder / f"{name}.png").exists() and f"({name}.png)" in page


def test_the_same_seed_gives_the_same_rows() -> None:
    assert claims.run_claim("sign_error", Context()) == list(rows_of("sign_error"))


def test_senses() -> None:
    """Each row maker passes and refuses where it says, and NaN never passes."""
    far, huge = 1.1001, math.inf
    passing = {checks.close: (0.9, 1.05), checks.at_most: (0.2, 1.0), checks.at_least: (1.0, 9.0)}
    failing = {
        checks.close: (far, 0.8999, huge),
        checks.at_most: (1.01, huge),
        checks.at_least: (0.99,),
    }
    for row, values in passing.items():
        rest = (0.1, "") if row is checks.close else ("",)
        assert all(row("a/b", "", 1.0, value, *rest).passed for value in values)
        assert not any(row("a/b", "", 1.0, v, *rest).passed for v in (*failing[row], math.nan))


def test_what_is_printed_can_be_copied_and_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """No character is printed that nobody sees, and a name that a table broke is still known."""
    monkeypatch.setenv("COLUMNS", "60")
    everything = CliRunner().invoke(main, ["--check", "records_with_ties"])
    assert not [c for c in everything.output if not c.isprintable() and c != "\n"]
    names = [row.name for row in rows_of("records_with_ties")]
    for name in names:
        # As it stands in the first column of the table.
        broken = f" {name[:11]}\n{name[11:]} "
        found = CliRunner().invoke(main, ["--check", broken, "--json"])
        assert [row["name"] for row in json.loads(found.stdout)["checks"]] == [name]
    two = CliRunner().invoke(main, ["--check", names[0], "--check", names[-1], "--json"])
    assert [row["name"] for row in json.loads(two.stdout)["checks"]] == [names[0], names[-1]]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--check", "sign_eror"], "There is no check 'sign_eror'. Did you mean 'sign_error'?"),
        (["--check", "∇"], "There is no check '∇'. There are: stationarity, "),
        (["--check", "records/enumerating"], "records has: records/enumeration, "),
        (["--device", "abacus"], "The device 'abacus' cannot be used"),
    ],
)
def test_bad_options_are_explained(option: list[str], words: str) -> None:
    for command, arguments in ((main, option), (nabla_eval_main, ["theory", *option])):
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 1
        assert words in " ".join(result.output.split())


def test_help_needs_neither_nabla_eval_nor_anything_heavy(root: Path) -> None:
    script = """
import sys
sys.modules["nabla_eval"] = None
from nabla_theory.__main__ import main
main(["--help"], standalone_mode=False)
print("LOADED", *sorted({"torch", "sympy", "scipy", "matplotlib"} & sys.modules.keys()))
main(["--check", "records"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root / "theory",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "LOADED\n" in done.stdout and "3 of 3 checks hold" in done.stdout
