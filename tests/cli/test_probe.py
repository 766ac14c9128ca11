"""`nabla-eval probe` on the embedded pair, and what it refuses before anything is measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from nabla_eval import embedded
from nabla_eval.cli.main import main

SMALL = [
    "--limit", "2", "--n", "2", "--drafts", "2", "--positions", "1", "--rollouts", "2",
    "--repeats", "1", "--splits", "1", "--device", "cpu",
]  # fmt: skip


@pytest.mark.usefixtures("no_environment")
def test_a_probe_of_the_embedded_pair(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["probe", *SMALL, "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert re.search(r"Verdict: (pays|costs|cannot matter|cannot be told); ", done.stdout)
    assert "figures/probe.png" in done.stdout
    assert (tmp_path / "figures" / "probe.png").is_file()
    again = CliRunner().invoke(main, ["probe", *SMALL, "--json", "--output", str(tmp_path)])
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert list(found) == ["room", "reach", "fidelity", "advantage", "reward", "verdict"]
    assert json.loads((tmp_path / "probe.json").read_text()) == found
    assert found["room"]["problems"] == 2
    assert found["reward"]["note"] is None, "Countdown says what is right"


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--limit", "1"], "at least 2 problems"),
        (["--set", f"pretrained={embedded.paths()[0]}"], "needs a reward model"),
        (["--set", "method=greedy"], "has no gradient to probe"),
        (["--set", "temperature=0"], "temperature must be"),
        (["--set", "steps=0", "--limit", "2"], "steps=0 is the twin"),
        (["--gen_kwargs", "do_sample=False", "--limit", "2"], "asks for greedy decoding"),
        (["--rollouts", "3"], "rollouts must be an even number"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_what_cannot_be_probed_is_refused(words: list[str], told: str) -> None:
    done = CliRunner().invoke(main, ["probe", *words, "--device", "cpu"])
    assert done.exit_code == 1, done.output
    assert told in " ".join(done.stderr.split())
