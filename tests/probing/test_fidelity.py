"""Rankings against exact changes: slopes against autograd, correlations whose noise is known."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from nabla_eval.dto.objective import Site, reward_pass
from nabla_eval.engine import naive
from nabla_eval.engine.execute import Executor
from nabla_eval.options import Objective, Sampling
from nabla_eval.probing import fidelity
from nabla_eval.probing.plan import Plan
from nabla_eval.probing.requests import Linearise
from nabla_eval.probing.reward import best_of, summary
from nabla_eval.probing.room import open_places
from nabla_eval.protocol import Generate
from nabla_eval.testing import tiny_pair, tiny_problems


@pytest.mark.parametrize("kind", ["final", "process"])
def test_slopes_are_those_of_autograd(kind: Any) -> None:
    pair = tiny_pair()
    execute, problems = Executor(pair), tiny_problems(pair, 3)
    drafts = execute([Generate(p, p.key / "draft", Sampling()) for p in problems])
    tokens = tuple(range(2, pair.policy.vocabulary))
    asked: list[Any] = [
        Linearise(p, d, ((0, tokens), (d.scored - 1, tokens)), kind)
        for p, d in zip(problems, drafts, strict=True)
    ]
    objective = Objective(lam=1.0, nll_weight=0.0, reward_gradient=kind)
    for request, own in zip(asked, execute(asked), strict=True):
        draft = request.trajectory
        slope = -naive.token_gradient(
            pair, request.problem, list(draft.tokens), draft.scored, objective
        )
        for (i, _), changes in zip(request.places, own.changes, strict=True):
            here = slope[i, list(tokens)] - slope[i, draft.tokens[i]]
            assert list(changes) == pytest.approx(here.tolist(), abs=1e-9)


def test_a_mixture_of_one_token_is_that_token() -> None:
    pair = tiny_pair()
    (problem,) = tiny_problems(pair, 1)
    tokens = (3, 5, 4, 7)
    site = Site(problem.prompt, problem.affixes, tokens, 4)
    judge, objective = pair.judge, Objective(lam=1.0)
    plain, value = reward_pass(judge, [site], [0], objective)
    for i, token in enumerate(tokens):
        mixed, same = reward_pass(judge, [site], [0], objective, [(i, judge.embedding[token])])
        torch.testing.assert_close(mixed[0], plain[0])
        assert same == pytest.approx(value)
    _, other = reward_pass(judge, [site], [0], objective, [(1, judge.embedding[[2, 6]].mean(0))])
    assert other != pytest.approx(value)


def test_places_hold_what_the_policy_finds_plausible() -> None:
    pair = tiny_pair()
    (problem,) = tiny_problems(pair, 1)
    (draft,) = Executor(pair)([Generate(problem, problem.key, Sampling())])
    found = open_places(pair.policy, draft, Plan(plausible=0.05, tokens=4))
    p = pair.policy.head(draft.states).softmax(-1)
    assert [place.position for place in found] == [
        i for i, row in enumerate(p) if int((row >= 0.05).sum()) >= 2
    ]
    for place in found:
        row = p[place.position]
        assert place.plausible == int((row >= 0.05).sum())
        assert place.outside == pytest.approx(1 - float(row.topk(2).values.sum()), abs=1e-9)
        assert place.probabilities == pytest.approx(row[list(place.tokens)].tolist())


def sites(problems: int, noise: float, rollouts: int = 4) -> list[list[dict[str, Any]]]:
    """Positions of four tokens whose true values are 0, 1, 2, 3, and rankings of known quality."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(problems):
        true = rng.permutation(4).astype(float)
        rolled = true[:, None] + noise * rng.standard_normal((4, rollouts))
        swapped = true.copy()
        swapped[[0, 1]] = swapped[[1, 0]]
        found.append([{"policy": true, "swapped": swapped, "kept": true, "rolled": rolled}])
    return found


def test_noise_of_rollouts_is_taken_out_of_correlations() -> None:
    """A perfect ranking has 1 with and without noise, though half the rollouts disagree with it."""
    quiet, loud = sites(800, 0.0), sites(800, 3.0)
    own = [fidelity.correlated(loud, name, "rolled") for name in ("policy", "swapped")]
    exact = fidelity.correlated(quiet, "swapped", "rolled")
    assert own[0].value == pytest.approx(1, abs=0.1)  # 3 standard errors
    assert own[1].estimate.low < exact.value < own[1].estimate.high
    raw = [spearmanr(s["policy"], s["rolled"][:, :2].mean(1)).statistic for (s,) in loud]
    assert np.mean(raw) < 0.7  # what the correlation would be, noise left in
    top = fidelity.correlated(loud, "policy", "rolled", fidelity.tops)
    assert top.estimate.low < 1.1 and top.value > 0.8
    assert fidelity.above(own[1], own[0]).high < 0


def test_equal_values_have_no_ranking() -> None:
    flat = [[{"policy": [0.0, 0.0], "rolled": np.zeros((2, 2)), "kept": [0.0, 0.0]}]] * 3
    found = fidelity.correlated(flat, "policy", "kept")
    assert np.isnan(found.value) and np.isnan(found.estimate.value)
    assert fidelity.agreement(flat, "policy", "kept").value == pytest.approx(0.5)


def test_the_best_of_k_is_that_of_all_sets() -> None:
    rewards, values = [0.5, 2.0, 2.0, -1.0, 0.0], [1.0, 0.0, 1.0, 1.0, 0.0]
    for k in range(1, 6):
        sets = list(combinations(range(5), k))
        best = [values[max(own, key=lambda i: (rewards[i], -i))] for own in sets]
        assert best_of(rewards, values, k) == pytest.approx(sum(best) / len(sets))


def test_unknown_answers_are_said() -> None:
    problems = [{"drafts": [{"reward": r, "right": None} for r in (0.0, 1.0)]}] * 3
    found = summary(problems, 2)
    assert found["auc_within"] is None and "not known" in found["note"]
    assert [row["reward"].value for row in found["best_of"]] == [0.5, 1.0]
