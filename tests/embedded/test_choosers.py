"""The choosers' figures against scores by hand, their statistics, and the command's table."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.nn.functional import logsigmoid

from nabla_eval.cli.embedded import embedded
from nabla_eval.embedded import choosers
from nabla_eval.embedded.alignment import linearised
from nabla_eval.embedded.card import read_card, render_card, write_card
from nabla_eval.embedded.choosers import CHOOSERS, Drawn, clustered, draw, next_best, rank_first
from nabla_eval.embedded.countdown import split_of
from nabla_eval.embedded.measure import DRAWS
from nabla_eval.embedded.policy import PolicyRecipe, as_llama, build_policy
from nabla_eval.embedded.prefix import prefix_labels
from nabla_eval.embedded.reward import RewardRecipe, build_reward
from nabla_eval.embedded.sampling import prefix_scores
from nabla_eval.embedded.tokenizer import TOKENS, token_strings
from nabla_eval.embedded.train import save
from nabla_eval.errors import ConfigError

SMALL = PolicyRecipe(hidden=32, layers=1, heads=2, feed_forward=32)


@pytest.fixture(scope="module")
def policy() -> Any:
    return as_llama(build_policy(SMALL)).eval()


@pytest.fixture(scope="module")
def reward(policy: Any) -> Any:
    return build_reward(policy, RewardRecipe()).eval()


@pytest.fixture(scope="module")
def drawn(policy: Any) -> Drawn:
    return draw(policy, numbers=3, count=4)


def test_first_errors_are_of_validation_problems_and_differ(drawn: Drawn) -> None:
    assert all(split_of(problem) == "validation" for problem in drawn.questions)
    prefixes = set()
    for row in range(len(drawn.errors)):
        problem = drawn.questions[drawn.clusters[row]]
        place = int(drawn.errors.place[row])
        start = 2 * len(problem.numbers) + 2
        tokens = token_strings(drawn.errors.ids[row, : place + 1].tolist())
        labels = prefix_labels(problem, tokens[start:])
        assert not labels[-1] and all(labels[:-1])
        prefixes.add(tuple(tokens[:-1]))
    assert len(prefixes) == len(drawn.errors) >= 4
    assert len(drawn.responses) == 4 * DRAWS


def test_the_next_best_token_is_the_policys_first_but_the_wrong_one(drawn: Drawn) -> None:
    expected = []
    for row in range(len(drawn.errors)):
        wrong = int(drawn.errors.ids[row, drawn.errors.place[row]])
        order = drawn.errors.policy[row].argsort(descending=True).tolist()
        first = next(token for token in order if token != wrong)
        expected.append(float(drawn.errors.right[row, first]))
    assert next_best(drawn.errors).tolist() == expected
    known = rank_first_of_the_policy(drawn)
    assert (next_best(drawn.errors) >= known).all()  # a right first choice is not the wrong token


def rank_first_of_the_policy(drawn: Drawn) -> np.ndarray:
    best = drawn.errors.policy.argmax(-1, keepdim=True)
    return drawn.errors.right.gather(1, best)[:, 0].double().numpy()


def test_every_chooser_ranks_by_its_score(reward: Any, drawn: Drawn) -> None:
    """Policy, exact and combined choosers from plain scores of one swapped prefix at a time."""
    found = rank_first(reward, drawn.errors)
    assert set(found) == set(CHOOSERS)
    soft = linearised(reward, drawn.errors, "soft").detach()
    for row in range(3):
        problem, place = drawn.questions[drawn.clusters[row]], int(drawn.errors.place[row])
        start = 2 * len(problem.numbers) + 2
        before = drawn.errors.ids[row, start:place].tolist()
        swapped = [[*before, token] for token in range(len(TOKENS))]
        scores = prefix_scores(reward, [problem] * len(TOKENS), swapped)
        exact = logsigmoid(torch.stack([score[-1] for score in scores]))
        log_policy = drawn.errors.policy[row].log()
        for name, values in {
            "policy": log_policy,
            "exact": exact,
            "policy+exact": log_policy + 3 * exact,
            "soft": soft[row],
            "policy+soft": log_policy + 3 * soft[row],
        }.items():
            assert found[name][row] == drawn.errors.right[row, values.argmax()]


def test_clustered_errors_are_those_of_the_clusters_means_when_sizes_are_equal() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    found = clustered(values, np.array([7, 7, 2, 2, 4, 4]))
    means = np.array([0.5, 1.0, 0.0])
    assert found["value"] == 0.5
    assert found["standard_error"] == pytest.approx(means.std(ddof=1) / np.sqrt(3))


def pair(folder: Path, policy: Any, recipe: RewardRecipe) -> Path:
    """A pair with a random reward model, as training would leave it."""
    reward = build_reward(policy, recipe)
    with torch.no_grad():
        reward.score.weight.normal_(generator=torch.Generator().manual_seed(recipe.seed))
        if recipe.alignment != "none":
            reward.score.weight.neg_()
    save(policy, folder / "policy")
    save(reward, folder / "reward")
    content = {"task": {"numbers": 3}, "reward": {"recipe": asdict(recipe)}}
    write_card(folder, content)
    return folder


def test_the_command_compares_alignments_over_their_seeds(tmp_path: Path, policy: Any) -> None:
    folders = [
        str(pair(tmp_path / f"{kind}-{seed}", policy, RewardRecipe(seed=seed, alignment=kind)))
        for kind in ("none", "gold")
        for seed in (0, 1)
    ]
    options = ["compare", *folders, "--problems", "64"]
    result = CliRunner().invoke(embedded, [*options, "--json"], catch_exceptions=False)
    content = json.loads(result.output)
    rows = {(row["figure"], row["alignment"]): row for row in content["figures"]}
    assert rows["last-token AUC", "none"].keys() >= {"mean", "by_seed", "difference_to_none"}
    assert len(rows) == 2 * (5 + len(CHOOSERS))
    gold, none = (
        rows["right first: policy+exact", "gold"],
        rows["right first: policy+exact", "none"],
    )
    assert gold["by_seed"].keys() == {"0", "1"} and none["difference_to_none"] is None
    gap = gold["difference_to_none"]
    assert gap["value"] == pytest.approx(gold["mean"] - none["mean"]) and gap["value"] != 0
    text = CliRunner().invoke(embedded, options, catch_exceptions=False).output
    assert (
        f"| right first: policy+exact | gold | 2 | {gold['mean']:.3f} | {gap['value']:+.3f} ±"
        in text
    )


def test_two_models_of_one_alignment_and_seed_are_refused(tmp_path: Path, policy: Any) -> None:
    one = pair(tmp_path / "one", policy, RewardRecipe())
    two = Path(shutil.copytree(one, tmp_path / "two"))
    with pytest.raises(ConfigError, match="they would count as one"):
        choosers.compare([one, two], count=16)


def test_pairs_of_two_policies_are_refused(tmp_path: Path, policy: Any) -> None:
    one = pair(tmp_path / "one", policy, RewardRecipe())
    two = Path(shutil.copytree(one, tmp_path / "two"))
    save(as_llama(build_policy(PolicyRecipe(**{**vars(SMALL), "seed": 1}))), two / "policy")
    card = read_card(two)
    write_card(two, {"task": card["task"], "reward": card["reward"]})
    with pytest.raises(ConfigError, match=r"different policies or tasks.* Compare pairs"):
        choosers.compare([one, two], count=16)


def test_the_card_says_that_the_gradient_was_trained() -> None:
    from nabla_eval.embedded import WEIGHTS

    card = read_card(WEIGHTS)
    assert "Its gradient was trained too" not in render_card(card)
    card["reward"]["recipe"] |= {
        "alignment": "gold", "alignment_weight": 0.5, "linearisation": "soft",
    }  # fmt: skip
    assert "linearised at the\npolicy's mean embedding of a first error with the right tokens" in (
        render_card(card)
    )
