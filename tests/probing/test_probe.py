"""`nabla_eval.probe` end to end: its sections, what it refuses, what a second call takes up."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from math import nan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import nabla_eval as ne
from nabla_eval.analysis.intervals import Estimate, unknown
from nabla_eval.errors import ConfigError, DataError, ItemError, ModelError
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.models.pair import Pair
from nabla_eval.probing.plan import Plan, ProbedProblem
from nabla_eval.probing.store import LINES, SETTINGS, Store
from nabla_eval.probing.verdict import verdict
from nabla_eval.reporting.probe import probe_report
from nabla_eval.reporting.tables import json_text, report_json, report_markdown
from nabla_eval.testing import additive_pair, tiny_pair, tiny_problems

SECTIONS = ["room", "reach", "fidelity", "advantage", "reward", "verdict"]
SMALL: dict[str, Any] = {
    "n": 2, "passes": 1, "steps": 3, "drafts": 2, "positions": 1, "rollouts": 2, "repeats": 1,
    "splits": 1, "draws": 2, "max_new_tokens": 4, "chat": False,
}  # fmt: skip
TEXTS = ["ab", "bcd"]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return tiny_pair()


@pytest.fixture(scope="module")
def made(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("probe")
    found = ne.probe(pair, TEXTS, grade=lambda problem, text: len(text) > 2, output=folder, **SMALL)
    return found, folder


def test_it_has_six_sections_and_says_what_they_mean(made: tuple[dict[str, Any], Path]) -> None:
    found, _ = made
    assert list(found) == SECTIONS
    assert list(json.loads(json_text(found))) == SECTIONS
    report = probe_report(found)
    assert [table.name for table in report.tables] == SECTIONS[:-1]
    assert found["verdict"]["sentences"][0] in report_markdown(report).replace("\\", "")
    assert report_json(report)["reach"][0]["setting"] == "as given"
    report.plots[0].draw()


def test_what_was_measured_is_measured_once(
    pair: Pair, made: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torn line alone is measured again, and the result is the same."""
    found, folder = made
    file = folder / LINES
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    asked: list[Any] = []
    real = ne.probe.__globals__["measure"]

    def counted(*given: Any) -> Any:
        asked.append(given[1].text)
        return real(*given)

    monkeypatch.setitem(ne.probe.__globals__, "measure", counted)
    grade: Callable[[str, str], bool] = lambda problem, text: len(text) > 2  # noqa: E731
    again = ne.probe(pair, TEXTS, grade=grade, output=folder, **SMALL)
    assert len(asked) == 1
    assert rounded(again) == rounded(found)  # another batch, other rounding
    assert len(file.read_bytes().splitlines()) == len(whole.splitlines())


def rounded(found: dict[str, Any]) -> Any:
    return json.loads(json_text(found), parse_float=lambda number: round(float(number), 7))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: None, r"probe with another seed \(0 there, 1 here\)"),
        (lambda folder: (folder / SETTINGS).unlink(), "no settings.json that says"),
        (lambda folder: (folder / SETTINGS).write_text("[1"), "cannot be used"),
        (lambda folder: (folder / SETTINGS).write_text("[1]"), "is none of a probe"),
    ],
)
def test_a_folder_of_something_else_is_refused(
    pair: Pair, made: tuple[dict[str, Any], Path], tmp_path: Path, spoil: Any, words: str
) -> None:
    for name in (SETTINGS, LINES):
        (tmp_path / name).write_bytes((made[1] / name).read_bytes())
    spoil(tmp_path)
    with pytest.raises(DataError, match=words):
        ne.probe(
            pair, TEXTS, output=tmp_path, grade=lambda problem, text: True, **{**SMALL, "seed": 1}
        )


@pytest.mark.parametrize(
    ("texts", "options", "error", "words"),
    [
        (["ab"], {}, ConfigError, "at least 2 problems"),
        (TEXTS, {"steps": 0}, ConfigError, "twin"),
        (TEXTS, {"n": 1}, ConfigError, "draft alone"),
        (TEXTS, {"resample_temperature": 0}, ConfigError, "same token"),
        (TEXTS, {"top_k": 1}, ConfigError, "same token"),
        (TEXTS, {"temperature": 0}, ConfigError, "temperature"),
        (TEXTS, {"rollouts": 3}, ConfigError, "even number"),
        (TEXTS, {"drafts": 1}, ConfigError, "at least 2"),
        (TEXTS, {"answers": ["1"]}, ConfigError, "one for each"),
        (TEXTS, {"answers": "12"}, ConfigError, "answers must be a list of texts, got '12'"),
        (TEXTS, {"answers": [1, 2]}, ConfigError, "answers must be a list of texts, got 1 in it"),
        (TEXTS, {"answers": [None, "2"]}, ConfigError, "answers must be a list of .* None in it"),
        (TEXTS, {"answers": 16}, ConfigError, "answers must be a list of texts, got 16"),
        (TEXTS, {"grade": 3}, ConfigError, "grade must be a function"),
        (["ab", 2], {}, ConfigError, "problems must be a list of texts, got 2 in it"),
        ("ab", {}, ConfigError, "problems must be a list of texts, got 'ab'"),
        (["", "ab"], {}, ConfigError, "A problem is empty"),
        (TEXTS, {"batch_size": 0}, ConfigError, "batch_size must be an integer >= 1"),
        (TEXTS, {"learning": 1}, ConfigError, "learning"),
        (TEXTS, {"max_seconds": 1e-9}, ItemError, "could be measured"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(
    pair: Pair, texts: list[str], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        ne.probe(pair, texts, **{**SMALL, **options})


def test_lines_of_something_else_are_neither_taken_up_nor_lost(tmp_path: Path) -> None:
    """A line that is no probe's, or was damaged, is refused; only a torn last one is cut off."""
    store = Store(tmp_path, {})
    store.add(("a/0/0", "1"), {"x": 1})
    store.add(("a/1/0", "2"), {"x": 2})
    file = tmp_path / LINES
    whole = file.read_bytes()
    for spoilt in (b'{"id": "mine"}\n', whole.replace(b'"x":1', b'"x":7'), b"\n" + whole):
        file.write_bytes(spoilt)
        with pytest.raises(DataError, match=r"line 1 of .* is not one"):
            Store(tmp_path, {})
        assert file.read_bytes() == spoilt
    file.write_bytes(whole + whole[:9])
    assert Store(tmp_path, {}).found == store.found
    assert file.read_bytes() == whole


@pytest.mark.parametrize("name", ["run.json", "report.html", "trace-rank0.jsonl", "notes"])
def test_a_folder_of_others_is_not_written_to(pair: Pair, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("theirs")
    (tmp_path / ".hidden").touch()
    with pytest.raises(DataError, match=f"it holds {name} and no settings.json"):
        ne.probe(pair, TEXTS, output=tmp_path, **SMALL)
    assert sorted(own.name for own in tmp_path.iterdir()) == [".hidden", name]


def test_a_problem_whose_text_has_changed_is_measured_again(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, asked = sys.modules["nabla_eval.probing.probe"], list[str]()

    def measured(pair: Pair, problem: Any, *_: Any) -> Any:
        yield []
        asked.append(problem.text)
        return ProbedProblem({})

    monkeypatch.setattr(module, "measure", measured)
    monkeypatch.setattr(module, "summarise", lambda *given: {"problems": len(given[0])})
    one, two = tiny_problems(pair, 2)
    for problems in ([one, two], [one, two], [one, replace(two, prompt=one.prompt)]):
        probe = module.Probe(pair, Nabla(), folder=tmp_path)
        assert probe([module.Asked(each) for each in problems]) == {"problems": 2}
    assert len(asked) == 3


@pytest.mark.parametrize("later", [True, False, None])
def test_grades_are_those_of_the_grader_at_hand(
    pair: Pair, tmp_path: Path, later: bool | None
) -> None:
    """Responses are kept, not what another grader made of them."""
    given: dict[str, Any] = {"grade": lambda problem, text: later}
    before = ne.probe(pair, TEXTS, output=tmp_path, grade=lambda problem, text: True, **SMALL)
    assert before["room"]["sample"]["value"] == 1
    found = ne.probe(pair, TEXTS, output=tmp_path, **given, **SMALL)
    assert rounded(found) == rounded(ne.probe(pair, TEXTS, **given, **SMALL))
    assert found["room"]["sample"]["value"] == pytest.approx(
        float(nan if later is None else later), nan_ok=True
    )


@pytest.mark.parametrize(
    "other", [tiny_pair(seed=1), tiny_pair(dtype=torch.bfloat16), tiny_pair(process=False)]
)
def test_another_pair_is_another_probe(
    pair: Pair, made: tuple[dict[str, Any], Path], other: Pair
) -> None:
    """Models of one name are told apart by their weights."""
    with pytest.raises(DataError, match="another models"):
        ne.probe(other, TEXTS, output=made[1], **SMALL)


def every(count: int) -> Callable[[str, str], bool | None]:
    """Return a grader that cannot tell of each `count`-th response."""
    asked = iter(range(10**6))
    return lambda problem, text: None if next(asked) % count == count - 1 else len(text) > 2


@pytest.mark.parametrize(
    ("grade", "unknown"),
    [
        (lambda problem, text: None, 4),
        (lambda problem, text: None if problem == "ab" else True, 1),
        (lambda problem, text: None if problem != "ab" else True, 4),
        (lambda problem, text: None if problem in ("ab", "cc") else text < "d", 2),
        (every(3), 4), (every(1000), 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"entropy_threshold": 50.0}])
def test_what_is_known_is_used(
    pair: Pair, grade: Any, unknown: int, options: dict[str, Any]
) -> None:
    """A problem of which some grade is unknown is no wrong one, and a note counts it."""
    texts = [*TEXTS, "cc", "dabc"]
    found = ne.probe(pair, texts, grade=grade, **{**SMALL, **options})
    accuracy, note = found["advantage"]["margin"]["accuracy"], found["reward"]["note"]
    assert found["advantage"]["margin"]["reward"]["problems"] == 4
    if unknown == 4:
        assert accuracy is None and "not known" in note
        assert " points" not in " ".join(found["verdict"]["sentences"])
        assert found["room"]["greedy"]["problems"] == 0
        return
    assert accuracy["problems"] == found["room"]["greedy"]["problems"] == 4 - unknown
    assert all(row["right"]["problems"] == 4 - unknown for row in found["reward"]["best_of"])
    assert (note is None) == (unknown == 0)
    if unknown:
        assert f"{unknown} of 4 problems are left out" in note
        assert note in found["verdict"]["sentences"]
        assert note in probe_report(found).tables[-1].notes
        assert " points" in found["verdict"]["sentences"][0]


def test_what_was_measured_is_kept_where_a_grader_fails(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        ne.probe(pair, TEXTS, grade=lambda problem, text: bool(1 / 0), output=tmp_path, **SMALL)
    assert (tmp_path / LINES).read_bytes().count(b"\n") >= 1


def test_shares_stay_in_the_unit_interval_and_counts_are_not_negative(
    made: tuple[dict[str, Any], Path],
) -> None:
    """On two problems Student's t goes far beyond both."""
    found, _ = made
    settings = [row["variation"] for row in found["reach"]["settings"]]
    for own in [found["room"]["outside_top_2"], found["advantage"]["runs_that_differ"], *settings]:
        assert 0 <= own["ci95"][0] <= own["value"] <= own["ci95"][1] <= 1
    counts = [found["room"]["tokens"], found["room"]["uncertain_positions"]]
    for own in [*counts, found["advantage"]["draws_per_problem"]]:
        assert 0 <= own["ci95"][0] <= own["value"]


def test_no_problem_is_begun_that_would_end_too_late(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With 10 seconds, and problems of 4, the third would end at 12."""
    module = sys.modules["nabla_eval.probing.probe"]

    def slow(*given: Any) -> Any:
        yield []

    monkeypatch.setattr(module, "measure", slow)
    own = module.Probe(pair, Nabla(), Plan(max_seconds=10.0))
    (problem,) = tiny_problems(pair, 1)
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    begun = 0
    for method in own._methods([module.Asked(problem)] * 5, Nabla()):
        next(method)
        now[0] += 4
        assert next(method, None) is None
        begun += 1
    assert begun == 2
    assert "3 of 5 problems are not begun" in caplog.text


def test_a_pair_without_a_reward_model_is_refused(pair: Pair) -> None:
    with pytest.raises(ModelError, match="no reward model"):
        ne.probe(replace(pair, reward=None), TEXTS, **SMALL)


def test_answers_that_nobody_knows_are_no_failure() -> None:
    found = ne.probe(tiny_pair(process=False), TEXTS, **SMALL)
    assert found["reward"]["auc_within"] is None
    assert found["advantage"]["margin"]["accuracy"] is None
    assert found["reward"]["note"] in found["verdict"]["sentences"]
    names = {row["ranking"] for row in found["fidelity"]["rankings"]}
    assert names <= {"policy", "final gradient, hard", "final gradient, mean"}


# --- the verdict's rules ---


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, (high - low) / 4, low, high, 50)


@pytest.mark.parametrize(("lam", "answer"), [(1.0, "pays"), (-1.0, "costs")])
def test_a_gradient_that_pays_is_recognised(lam: float, answer: str) -> None:
    """Where every token adds its share of the reward, first order is nearly exact."""
    texts = ["".join(chr(ord("a") + (7 * i + j * j) % 26) for j in range(4)) for i in range(12)]
    few: dict[str, Any] = {**SMALL, "n": 6, "passes": 2, "steps": 20, "max_new_tokens": 10}
    found = ne.probe(additive_pair(), texts, lr=0.5, min_lr=0.05, lam=lam, batch_size=12, **few)
    assert found["verdict"]["answer"] == answer
    (own,) = (
        row for row in found["fidelity"]["rankings"]
        if (row["ranking"], row["change"]) == ("final gradient, hard", "kept")
    )  # fmt: skip
    assert lam * own["correlation"]["value"] > 0.5, "of what the loop follows"


def sections(**given: Any) -> dict[str, Any]:
    """Sections of a probe in which everything is in the middle, but for what is given."""
    told: dict[str, Any] = {
        "margin": estimate(0.0, -0.03, 0.03), "differ": estimate(0.3, 0.25, 0.35),
        "moved": estimate(0.03, 0.02, 0.04), "correlation": estimate(0.3, 0.2, 0.4),
        "above": estimate(0.0, -0.1, 0.1), "auc": estimate(0.9, 0.85, 0.95),
        "positions": estimate(3.0, 2.0, 4.0), "lost": estimate(0.0, -0.1, 0.1),
        "flat": estimate(0.0, 0.0, 0.0), **given,
    }  # fmt: skip
    some, one = estimate(0.5, 0.4, 0.6), estimate(1.0, 1.0, 1.0)
    row = {"variation_bound": 0.04, "certified": some, "logits_moved": one}
    ranking = {"correlation": told["correlation"], "above_policy": told["above"]}
    return {
        "room": {
            "uncertain_positions": told["positions"], "plausible_tokens": some, "problems": 50,
            "flat_positions": told["flat"],
            "pass_at": {"8": some}, "greedy": some,
        },
        "reach": {
            "settings": [
                {**row, "setting": "as given", "variation": told["moved"]},
                {**row, "setting": "lr=0.1", "variation": estimate(0.2, 0.1, 0.3)},
            ]
        },
        "fidelity": {
            "rankings": [{**ranking, "ranking": "final gradient, hard", "change": "rolled"}]
        },
        "advantage": {
            "n": 8, "runs_that_differ": told["differ"], "calls_per_problem": some,
            "margin": {"accuracy": told["margin"], "reward": some}, "common": {"right": some},
        },
        "reward": {
            "note": None, "auc_within": told["auc"], "over_optimised": told["lost"],
            "best_of": [{"k": 8, "right": some}],
        },
    }  # fmt: skip


STILL = {"differ": estimate(0.0, 0.0, 0.1)}


@pytest.mark.parametrize(
    ("given", "answer", "words"),
    [
        (
            {"margin": estimate(0.018, 0.006, 0.03)},
            "pays",
            "The gradient pays: expect +1.8 points (+0.6 to +3.0)",
        ),
        ({"margin": estimate(0.018, 0.006, 0.03)}, "pays", "(the twin) as many calls first"),
        (
            {"margin": estimate(-0.08, -0.1, -0.06)},
            "costs",
            "The gradient does harm: expect -8.0 points",
        ),
        ({}, "cannot be told", "cannot be told from nothing: expect"),
        (
            {"differ": estimate(0.004, 0.0, 0.01)},
            "cannot matter",
            "changes 0.4 % (0.0 to 1.0) of runs",
        ),
        (
            {"margin": estimate(0.002, -0.004, 0.008)},
            "cannot matter",
            "cannot matter here: expect +0.2 points",
        ),
        ({**STILL, "moved": estimate(0.0, 0.0, 0.0)}, "cannot matter", "No draw moves at all"),
        ({}, "cannot be told", "tokens no better than the policy does"),
        ({"above": estimate(0.2, 0.1, 0.3)}, "cannot be told", "tokens better than the policy"),
        ({"correlation": estimate(0.0, -0.1, 0.1)}, "cannot be told", "no better than chance"),
        ({"correlation": estimate(-0.3, -0.4, -0.2)}, "cannot be told", "ranks tokens backwards"),
        ({"correlation": estimate(-0.3, -0.4, -0.2)}, "cannot be told", "Do not raise lr"),
        ({}, "cannot be told", "lr=0.1: it moves 20.0 %"),
        ({}, "cannot be told", "Take about 450 problems"),
        ({"auc": estimate(0.777, 0.7, 0.85)}, "cannot be told", "model: with an AUC below 0.85"),
        ({"lost": estimate(-0.1, -0.2, -0.05)}, "cannot be told", "may choose from, the worse"),
        ({"positions": estimate(0.2, 0.1, 0.3)}, "cannot be told", "sure of its tokens"),
        (
            {"positions": estimate(0.2, 0.1, 0.3), "flat": estimate(30.0, 29.0, 31.0)},
            "cannot be told",
            "spreads over the whole vocabulary",
        ),
        ({**STILL, "moved": unknown()}, "cannot matter", "No position is refined"),
        ({"moved": unknown()}, "cannot be told", "No position of a first draft is refined"),
        ({"correlation": Estimate(1.0, nan, nan, nan, 1)}, "cannot be told", "Fidelity is unknown"),
        ({"above": unknown()}, "cannot be told", "ranks tokens better than chance"),
        ({"lost": estimate(-0.1, -0.2, -0.05)}, "cannot be told", "twice as many drafts"),
    ],
    ids=str,
)
def test_the_verdict_follows_its_rules(given: dict[str, Any], answer: str, words: str) -> None:
    found = verdict(sections(**given), Nabla())
    assert found["answer"] == answer
    assert words in " ".join([*found["sentences"], *found["try"]])


def test_a_gate_that_no_gradient_passes_leaves_nothing_to_refine(pair: Pair) -> None:
    """Neither is a draw measured there, nor a larger rate proposed."""
    found = ne.probe(pair, TEXTS, gradient_threshold=1e9, **SMALL)
    assert found["room"]["refined_positions"]["value"] == 0
    assert found["advantage"]["draws_per_problem"]["value"] == 0
    assert all(math.isnan(row["variation"]["value"]) for row in found["reach"]["settings"])
    told = found["verdict"]
    assert told["answer"] == "cannot matter"
    assert any("the gradient's norm above 1e+09" in own for own in told["sentences"])
    assert told["try"][0].startswith("gradient_threshold=0") and "lr" not in str(told["try"])
    probe_report(found).plots[0].draw()


@pytest.mark.parametrize(
    ("lam", "words", "proposed"),
    [
        (-1.0, "At lam=-1 the loop ranks tokens backwards", "lam=1: at lam=-1"),
        (0.0, "At lam=0 the loop follows no gradient of the reward", "lam=1: at lam=0"),
        (2.0, "The gradient ranks tokens backwards", "Do not raise lr: the gradient ranks"),
    ],
)
def test_the_verdict_is_about_what_the_loop_follows(lam: float, words: str, proposed: str) -> None:
    backwards = sections(correlation=estimate(-0.3, -0.4, -0.2))
    found = verdict(backwards, Nabla(lam=lam))
    assert words in " ".join(found["sentences"]) and found["try"][0].startswith(proposed)


def test_a_reward_model_that_neither_is_weak_nor_loses_stays() -> None:
    given = {"auc": estimate(0.86, 0.6, 0.9), "lost": estimate(-0.05, -0.2, 0.1)}
    assert not any("Another reward model" in t for t in verdict(sections(**given), Nabla())["try"])


def test_problems_that_failed_are_counted() -> None:
    assert "3 problems are left out" in verdict(sections(), Nabla(), 3)["sentences"][-1]
