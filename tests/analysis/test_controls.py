"""Twins, drafts, ablations and curves: the right run stands beside the right run."""

from __future__ import annotations

import math

import pytest
from run_folders import BEST_OF_N, NABLA, record

from nabla_eval.analysis.controls import controls_of, drafts_of, twin_of
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.scaling import at_equal_cost, curve_name, pareto, points
from nabla_eval.errors import DataError
from nabla_eval.reporting.accuracy import (
    ablation_report,
    base_of,
    changed_options,
    named,
)


def make(
    name, right=(1, 0, 1, 1), calls=10.0, method="nabla", base=None, drafts=(0.0,), **changes
) -> Run:
    config = {**(NABLA if base is None else base), **changes}
    records = [
        record(i, method=method, config=config, calls=calls * (i + 1), drafts=drafts)
        for i in range(len(right))
    ]
    return Run.of(name, records, {f"toy/{i}": [float(x)] for i, x in enumerate(right)}, math.nan)


def best(name, **changes) -> Run:
    n = 1 if "stop_reward" in changes else changes.get("n", 8)
    drafts = changes.pop("drafts", [0.0] * n)
    return make(name, method="best_of_n", base=BEST_OF_N, drafts=drafts, **changes)


def test_the_twin_may_differ_in_what_only_steps_read():
    ours, other = make("ours", lr=0.1), make("other")
    twin, warm = make("twin", steps=0), make("warm", steps=0, temperature=1.0)
    runs = [ours, other, warm, twin]
    assert twin_of(ours, runs) is twin and twin_of(other, runs) is twin
    assert twin_of(twin, runs) is None and twin_of(best("b"), runs) is None
    ahead = make("ahead", lookahead=3)
    assert twin_of(ahead, [*runs]) is twin  # it changes the cost, and no answer
    assert twin_of(ahead, [twin, best_twin := make("a", steps=0, lookahead=3)]) is best_twin
    negated = make("negated", lam=-1.0)
    assert twin_of(negated, runs) is twin  # no gate looks at the objective
    gated = make("gated", lam=-1.0, gradient_threshold=4.0)
    assert twin_of(gated, [*runs, make("g", steps=0, gradient_threshold=4.0)]) is None
    released = {"relaxation_temperature": 1.0, "threshold_inclusive": True}
    assert twin_of(make("r", schedule="clipped_cosine", optimizer="sgd", **released), runs) is twin
    assert twin_of(make("kept", end_token="kept"), runs) is None
    rounded = {"logits_dtype": "bfloat16"}  # which a twin draws from too
    latents = make("latents", parameterisation="latents", **rounded)
    assert twin_of(latents, [*runs, make("z", steps=0, **rounded)]) is None
    h = make("h", steps=0, parameterisation="latents", **rounded)
    assert twin_of(latents, [*runs, h]) is h
    right = make("right", steps=0, gradient_threshold=4.0, lam=-1.0)
    assert twin_of(gated, [*runs, right]) is right


def test_controls_have_the_same_n_and_models():
    ours = make("ours", stop_reward=2.0)
    plain, four = best("plain"), best("four", n=4)
    hot, stop = best("hot", temperature=1.0), best("stop", stop_reward=2.0)
    loose = best("loose", stop_reward=1.0)
    twin = make("twin", steps=0, stop_reward=2.0)
    runs = [hot, four, plain, loose, stop, twin, ours]
    assert drafts_of(ours, runs) is plain and drafts_of(ours, [hot, four]) is hot
    assert drafts_of(ours, [four, stop]) is None
    assert controls_of(ours, runs) == [
        ("twin", twin), ("best-of-N", plain), ("best-of-N, early stop", stop),
    ]  # fmt: skip
    assert controls_of(plain, runs) == []
    sure = best("sure", evaluator="self_certainty")
    limited, unscored = best("limited", max_calls=50), best("unscored", drafts=[None] * 8)
    assert controls_of(ours, [sure, limited, unscored]) == []


def test_one_change_at_a_time():
    base, lr, both = make("base"), make("lr", lr=0.1), make("both", lr=0.1, n=4)
    twin = make("twin", steps=0)
    runs = [both, lr, base, twin]
    assert changed_options(base, both) == {"n": (8, 4), "lr": (0.01, 0.1)}
    assert base_of(runs) is lr or base_of(runs) is base
    found = ablation_report(runs, "base").table("changes").rows
    assert [row["run"] for row in found] == ["lr", "twin", "both"]
    assert found[0]["twin"] == "twin" and found[1]["twin"] is None
    assert found[0]["calls"] == 0 and found[0]["difference"] == 0
    assert named("both", runs) is both
    with pytest.raises(DataError, match="Did you mean both"):
        named("bot", runs)
    with pytest.raises(DataError, match="nothing to ablate"):
        base_of([base])


def test_the_front_is_what_no_other_run_dominates():
    spec = [(10, 2), (20, 3), (20, 2), (40, 3), (5, 2), (5, 1), (80, 4)]
    runs = [make(f"r{i}", [1] * k + [0] * (4 - k), calls=c, lr=i) for i, (c, k) in enumerate(spec)]
    found = points(runs)
    front = {point.run.name for point, on in zip(found, pareto(found), strict=True) if on}
    assert front == {"r1", "r4", "r6"}


def test_a_curve_is_what_differs_in_n_only():
    assert curve_name(make("nabla n=8 lr=0.1")) == "nabla lr=0.1"


def test_at_equal_cost_the_rival_mixes_its_neighbours():
    ours = make("ours", (1, 1, 1, 0), calls=15.0)
    cheap = best("cheap", right=(0, 1, 0, 0), calls=10.0, n=2)
    dear = best("dear", right=(1, 1, 1, 1), calls=30.0, n=8)
    found = at_equal_cost(ours, [dear, cheap])
    assert found is not None and (found.cheaper, found.dearer) == (cheap, dear)
    assert found.weight == pytest.approx(0.25)
    rival = 0.75 * 0.25 + 0.25 * 1.0
    assert found.difference.estimate.value == pytest.approx(0.75 - rival)
    exact = at_equal_cost(make("o", calls=30.0), [cheap, dear])
    assert exact is not None and exact.weight == 1.0
    assert at_equal_cost(make("o", calls=5.0), [cheap, dear]) is None
    assert at_equal_cost(make("o", calls=50.0), [cheap, dear]) is None
    found = found.difference
    assert (found.wins, found.losses) == (None, None)  # of a mixture: no meaning
    first = at_equal_cost(make("o", calls=10.0), [cheap, dear])
    assert first is not None and first.dearer is cheap


def test_at_equal_cost_a_rival_that_falls_with_more_compute_keeps_its_best():
    """70, 84 and 76 % at 20, 40 and 80 calls: at 60 it is 84 %, where neighbours mix to 80 %."""
    right = {cost: [1] * k + [0] * (50 - k) for cost, k in ((20, 35), (40, 42), (80, 38))}
    rivals = [best(f"at {c}", right=r, calls=float(c), n=c) for c, r in right.items()]
    ours = make("ours", [1] * 40 + [0] * 10, calls=60.0)
    found = at_equal_cost(ours, rivals[::-1])
    assert found is not None and found.cheaper is found.dearer is rivals[1]
    assert found.difference.estimate.value == pytest.approx(0.80 - 0.84)
    # A point below the line between its neighbours is passed over too.
    sag = [best(f"at {c}", right=[1] * k + [0] * (50 - k), calls=float(c), n=c)
           for c, k in ((20, 20), (40, 21), (80, 40))]  # fmt: skip
    found = at_equal_cost(make("ours", [1] * 30 + [0] * 20, calls=50.0), sag)
    assert found is not None and (found.cheaper, found.dearer) == (sag[0], sag[2])
    assert found.weight == pytest.approx(0.5)
    assert found.difference.estimate.value == pytest.approx(0.60 - 0.60)
