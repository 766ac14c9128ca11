"""Right tokens by the exact search, first errors and doubts, and rivals with their labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from nabla_eval.embedded.countdown import Problem, problems
from nabla_eval.embedded.places import CONFIDENCE, find_doubts, find_errors, join
from nabla_eval.embedded.policy import PolicyRecipe, as_llama, build_policy, one_thread
from nabla_eval.embedded.prefix import prefix_labels, right_tokens, tokenise
from nabla_eval.embedded.reward import (
    RewardRecipe,
    build_reward,
    collect,
    find_rivals,
    fit_reward,
    grade,
    reward_loss,
    train_reward,
)
from nabla_eval.embedded.rivals import scores_beside
from nabla_eval.embedded.sampling import prefix_scores, token_logits
from nabla_eval.embedded.tokenizer import IDS, PAD_ID, TOKENS, encode_prompt
from nabla_eval.errors import DataError
from nabla_eval.models.exact import widen_norms

SMALL = PolicyRecipe(hidden=32, layers=2, heads=2, feed_forward=32)
RECIPE = RewardRecipe(steps=3, batch=16, questions=24, samples=2, warmup=1, rivals=5)
PROBLEM = Problem((5, 7, 1), 42)  # 42 = (5+1)*7
START = len(encode_prompt(PROBLEM))


def ids_of(text: str) -> list[int]:
    return [IDS[token] for token in tokenise(text)]


@pytest.fixture(scope="module")
def policy() -> Any:
    return as_llama(build_policy(SMALL)).eval()


ROWS = [
    (PROBLEM, ids_of(text))
    for text in ("5+1=6;6*7=42<eos>", "5*7=36;36+1=42<eos>", "7-1=6;6*5=30<eos>", "1+5=<eos>")
]


def names(mask: torch.Tensor) -> set[str]:
    return {TOKENS[token] for token in mask.nonzero()[:, 0]}


# --- places -------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [3, 4])
def test_right_tokens_are_those_after_which_the_prefix_oracle_is_alive(numbers: int) -> None:
    """Against every token of the vocabulary, along random right prefixes that end in an error."""
    rng = np.random.default_rng(0)
    depth = 0
    for problem in problems(8, "train", numbers=numbers):
        tokens: list[str] = []
        for _ in range(12):
            alive = {t for t in TOKENS if prefix_labels(problem, [*tokens, t])[-1]}
            assert right_tokens(problem, [*tokens, "<pad>"])[-1] == alive
            if not alive:
                break
            tokens.append(rng.choice(sorted(alive)))
        found = right_tokens(problem, [*tokens, "<pad>", "1"])
        complete = tokens[-1] == "<eos>"
        assert len(found) == len(tokens) + 1
        assert bool(found[-1]) is not complete  # after the end nothing is right
        depth = max(depth, len(tokens))
    assert depth == 12


def test_first_errors_of_right_wrong_and_cut_responses(policy: Any) -> None:
    errors = find_errors(policy, ROWS)
    assert errors.row.tolist() == [1, 2, 3]  # the first response is right
    assert (errors.place - START).tolist() == [1, 0, 4]
    # After "5" only "+", first "5" or "1", and after "1+5=" only "6".
    assert [names(row) for row in errors.right] == [{"+"}, {"5", "1"}, {"6"}]
    row = errors.ids[1, START:].tolist()
    logits = token_logits(policy, [PROBLEM], [row])[0]
    torch.testing.assert_close(errors.policy[1], logits[0].softmax(dim=-1))


def test_doubts_are_the_places_up_to_the_first_error_where_the_policy_is_unsure(
    policy: Any,
) -> None:
    """A policy of random weights is unsure everywhere, one with sharp logits hardly anywhere."""
    every = find_doubts(policy, ROWS)
    assert every.row.tolist() == [0] * 12 + [1] * 2 + [2] + [3] * 5
    assert (every.place - START).tolist() == [*range(12), 0, 1, 0, *range(5)]
    assert names(every.right[0]) == {"5", "1"} and names(every.right[11]) == {"<eos>"}

    sharp = as_llama(build_policy(SMALL)).eval()
    with torch.no_grad():
        sharp.model.norm.weight.mul_(25.0)
    some = find_doubts(sharp, ROWS)
    top = {
        (row, place): values.softmax(dim=-1).max().item()
        for row, response in enumerate(ROWS)
        for place, values in enumerate(token_logits(sharp, [PROBLEM], [response[1]])[0])
    }
    known = zip(every.row.tolist(), (every.place - START).tolist(), strict=True)
    expected = [where for where in known if top[where] <= CONFIDENCE]
    assert 0 < len(expected) < len(every)
    assert list(zip(some.row.tolist(), (some.place - START).tolist(), strict=True)) == expected


def test_nothing_to_align_is_an_error(policy: Any) -> None:
    with pytest.raises(DataError, match="None of 1 responses has an error"):
        find_errors(policy, ROWS[:1])
    certain = as_llama(build_policy(SMALL)).eval()
    with torch.no_grad():
        certain.model.norm.weight.mul_(1e4)
    with pytest.raises(DataError, match="sure of every token of 4 responses"):
        find_doubts(certain, ROWS)


# --- rivals -------------------------------------------------------------------------------------


def test_scores_beside_are_those_of_the_prefixes_with_the_tokens_swapped(policy: Any) -> None:
    reward = build_reward(policy, RECIPE).double().eval()
    widen_norms(reward)
    problem, response = ROWS[0]
    ids = torch.tensor([encode_prompt(problem) + response])
    place = torch.tensor([[START, START + 4, START + 11, START + 4]])
    tokens = torch.tensor([[IDS[token] for token in ("7", "9", ";", "6")]])
    scores, beside = scores_beside(reward, ids, place, tokens)
    torch.testing.assert_close(scores[0, START:], prefix_scores(reward, [problem], [response])[0])
    for column, (where, token) in enumerate(zip(place[0] - START, tokens[0], strict=True)):
        swapped = [*response[: int(where)], int(token)]
        expected = prefix_scores(reward, [problem], [swapped])[0][-1]
        torch.testing.assert_close(beside[0, column], expected)


def test_rivals_stand_after_right_prefixes_and_are_labelled_by_the_search(policy: Any) -> None:
    rows = collect(policy, RECIPE)
    rivals = find_rivals(policy, rows, replace(RECIPE, rivals=64))
    graded = grade(rows, RECIPE)
    drawn = torch.arange(len(rows))
    place, tokens, labels = rivals.draw(graded.ids, drawn)
    seen = set()
    for row, (problem, response) in enumerate(rows):
        for where, token, label in zip(place[row], tokens[row], labels[row], strict=True):
            at = int(where) - START
            alive = prefix_labels(problem, [TOKENS[i] for i in response[:at]])
            assert all(alive) and at < len(response)
            written = [TOKENS[i] for i in [*response[:at], int(token)]]
            assert prefix_labels(problem, written)[-1] == bool(label)
            seen.add((at, bool(label)))
    assert {(0, True), (0, False)} <= seen


def test_half_of_the_rivals_come_from_the_policy(policy: Any) -> None:
    """A policy that always says one token: it is drawn half of the time, and 1/V beside that."""
    said = IDS[";"]
    rivals = find_rivals(policy, ROWS, replace(RECIPE, rivals=4_000))

    class Says:
        def __call__(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            logits = torch.full((*input_ids.shape, len(TOKENS)), -1e9)
            logits[..., said] = 0.0
            return type("Output", (), {"logits": logits})

    rivals._policy = Says()
    _, tokens, _ = rivals.draw(grade(ROWS, RECIPE).ids, torch.arange(4))
    share = (tokens == said).double().mean().item()
    error = 0.5 / 16_000**0.5
    assert abs(share - (0.5 + 0.5 / len(TOKENS))) < 5 * error


def test_the_loss_with_rivals_adds_their_mean_cross_entropy(policy: Any) -> None:
    rows = collect(policy, RECIPE)
    graded, model = grade(rows, RECIPE), build_reward(policy, RECIPE).eval()
    drawn = torch.arange(16)
    plain = reward_loss(model, graded, drawn)
    whole = reward_loss(model, graded, drawn, find_rivals(policy, rows, RECIPE))
    place, tokens, labels = find_rivals(policy, rows, RECIPE).draw(graded.ids[drawn], drawn)
    _, beside = scores_beside(model, graded.ids[drawn], place, tokens)
    others = binary_cross_entropy_with_logits(beside, labels)
    torch.testing.assert_close(whole, plain + others)


def test_training_with_rivals_repeats_bit_for_bit_on_the_controls_batches(policy: Any) -> None:
    rows = collect(policy, RECIPE)
    with one_thread():
        first, facts = fit_reward(policy, rows, RECIPE)
        again, _ = fit_reward(policy, rows, RECIPE)
        control, _ = fit_reward(policy, rows, replace(RECIPE, rivals=0))
    assert np.isfinite(facts["losses"]).all()
    weights = [model.state_dict().values() for model in (first, again, control)]
    assert all(torch.equal(a, b) for a, b in zip(*weights[:2], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(*weights[1:], strict=True))


def test_a_reward_model_learns_from_several_policies_samples(policy: Any) -> None:
    """Half of the samples of each, places at the policy that wrote the response."""
    other = as_llama(build_policy(replace(SMALL, seed=1))).eval()
    recipe = replace(RECIPE, alignment="gold", alignment_at="doubts", alignment_rows=8)
    with one_thread():
        mixed, facts = train_reward(policy, recipe, others=[other])
        alone, _ = train_reward(policy, recipe)
    assert facts["graded_responses"] == recipe.questions * recipe.samples
    different = zip(mixed.state_dict().values(), alone.state_dict().values(), strict=True)
    assert not all(torch.equal(a, b) for a, b in different)

    longer = [(Problem((5, 7, 1, 2), 42), ids_of("5*7=35;35+1=36<eos>"))]
    parts = [find_errors(policy, ROWS), find_errors(other, longer)]
    both = join(parts)
    assert len(both) == sum(map(len, parts)) and both.ids.shape[1] == parts[1].ids.shape[1] == 22
    torch.testing.assert_close(both[torch.tensor([3])].policy, parts[1].policy)
    assert both.ids[0, parts[0].ids.shape[1] :].tolist() == [PAD_ID] * 2
    assert torch.equal(both[torch.arange(3)].ids, parts[0][torch.arange(3)].ids)
