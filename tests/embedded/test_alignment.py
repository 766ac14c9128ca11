"""The linearised score, the term's gradient by differences, and what training it does."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from nabla_eval.embedded.alignment import (
    Aligner,
    gold_loss,
    linearised,
    self_loss,
    swapped_scores,
    tilted,
)
from nabla_eval.embedded.countdown import Problem
from nabla_eval.embedded.places import Places, find_errors
from nabla_eval.embedded.policy import PolicyRecipe, adamw, as_llama, build_policy, one_thread
from nabla_eval.embedded.policy import update as one_update
from nabla_eval.embedded.prefix import tokenise
from nabla_eval.embedded.reward import (
    RewardRecipe,
    build_reward,
    collect,
    fit_reward,
    grade,
    reward_loss,
    train_reward,
)
from nabla_eval.embedded.sampling import prefix_scores
from nabla_eval.embedded.tokenizer import IDS, TOKENS, encode_prompt
from nabla_eval.errors import ConfigError
from nabla_eval.models.exact import widen_norms

SMALL = PolicyRecipe(hidden=32, layers=2, heads=2, feed_forward=32)
RECIPE = RewardRecipe(steps=3, batch=16, questions=24, samples=2, warmup=1, alignment_rows=8)
STEP = 1e-5  # of central differences: error about STEP**2 and 1e-16 / STEP, relative to 1


@pytest.fixture(scope="module")
def policy() -> Any:
    return as_llama(build_policy(SMALL)).eval()


@pytest.fixture(scope="module")
def errors(policy: Any) -> Places:
    """First errors at several places of responses of two lengths."""
    texts = ["5+1=6;6*7=42<eos>", "5*7=36;36+1=42<eos>", "7-1=6;6*5=30<eos>", "1+5=<eos>"]
    rows = [(Problem((5, 7, 1), 42), [IDS[token] for token in tokenise(text)]) for text in texts]
    return find_errors(policy, rows)


def double(model: Any) -> Any:
    reward = build_reward(model, RECIPE).double().eval()
    assert widen_norms(reward) == 5  # two per layer and the last
    return reward


# --- values -------------------------------------------------------------------------------------


def test_swapped_scores_are_the_scores_of_the_swapped_prefixes(policy: Any, errors: Places) -> None:
    reward = double(policy)
    tokens = torch.randint(len(TOKENS), (len(errors), 7), generator=torch.manual_seed(0))
    found = swapped_scores(reward, errors, tokens)
    start = len(encode_prompt(Problem((5, 7, 1), 42)))
    for row in range(len(errors)):
        before = errors.ids[row, start : errors.place[row]].tolist()
        for column, token in enumerate(tokens[row].tolist()):
            score = prefix_scores(reward, [Problem((5, 7, 1), 42)], [[*before, token]])[0][-1]
            torch.testing.assert_close(found[row, column], logsigmoid(score))


@pytest.mark.parametrize("point", ["soft", "hard"])
def test_the_linearised_score_is_the_slope_of_log_sigmoid(
    policy: Any, errors: Places, point: Any
) -> None:
    """G_v by central differences along e_v, at the mean embedding and the likeliest token's."""
    reward = double(policy)
    table = reward.get_input_embeddings().weight.detach()
    mixture = errors.policy.double()
    if point == "hard":
        mixture = torch.eye(len(TOKENS), dtype=torch.float64)[mixture.argmax(dim=-1)]
    found = linearised(reward, errors, point).detach()

    @torch.no_grad()
    def value(row: int, moved: torch.Tensor) -> float:
        place = errors.place[row]
        inputs = torch.cat([table[errors.ids[row, :place]], (mixture[row] @ table + moved)[None]])
        return logsigmoid(reward(inputs_embeds=inputs[None]).logits[0, -1, 0]).item()

    for row in range(len(errors)):
        for token in (3, 57, 100, 108):
            ahead = value(row, STEP * table[token]) - value(row, -STEP * table[token])
            assert found[row, token].item() == pytest.approx(ahead / (2 * STEP), abs=1e-8)


@pytest.mark.parametrize("kind", ["gold", "self"])
@pytest.mark.parametrize("point", ["soft", "hard"])
def test_the_terms_gradient_by_central_differences(
    policy: Any, errors: Places, kind: str, point: Any
) -> None:
    """Double backpropagation, in float64, along a random direction of all weights at once.

    The self-distilled target is held fixed while the weights move, as training holds it.
    """
    reward = double(policy)
    parameters = list(reward.parameters())
    top = errors.policy.topk(5, dim=-1).indices
    target = swapped_scores(reward, errors, top)

    def term() -> torch.Tensor:
        if kind == "gold":
            return gold_loss(linearised(reward, errors, point), errors.right)
        return self_loss(linearised(reward, errors, point).gather(1, top), target)

    gradients = torch.autograd.grad(term(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(0)
    direction = [
        torch.randn(weight.shape, dtype=torch.float64, generator=generator) for weight in parameters
    ]
    slope = sum(
        (gradient * along).sum().item()
        for gradient, along in zip(gradients, direction, strict=True)
        if gradient is not None
    )

    def moved(by: float) -> float:
        with torch.no_grad():
            for weight, along in zip(parameters, direction, strict=True):
                weight += by * along
        return term().item()

    ahead = moved(STEP)
    behind = moved(-2 * STEP)
    assert abs(slope) > 1e-3
    assert slope == pytest.approx((ahead - behind) / (2 * STEP), rel=1e-5, abs=1e-7)


def test_a_tilted_policy_is_the_policy_where_the_gradient_is_flat() -> None:
    policy = torch.tensor([[0.5, 0.3, 0.2, 0.0]])
    flat = tilted(torch.ones(1, 4), policy, 3.0).softmax(dim=-1)
    torch.testing.assert_close(flat, policy, atol=2e-6, rtol=0)
    steep = tilted(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), policy, 3.0)
    assert (steep[0, 1] - steep[0, 0]).item() == pytest.approx(np.log(0.3 / 0.5) + 3)
    values = torch.randn(1, 4, generator=torch.manual_seed(0))
    assert torch.equal(tilted(values, policy, 0.0), values)


def test_several_right_tokens_share_the_probability() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    right = torch.tensor([[True, False, True], [False, True, False]])
    share = (np.e + np.e**3) / (np.e + np.e**2 + np.e**3)
    expected = -(np.log(share) + np.log(1 / 3)) / 2
    assert gold_loss(values, right).item() == pytest.approx(expected, rel=1e-6)


# --- training -----------------------------------------------------------------------------------


def test_without_alignment_training_is_the_plain_loop(policy: Any) -> None:
    """The loop as it was before there was a term: same batches, same updates, same bits."""
    with one_thread():
        found, facts = train_reward(policy, RECIPE)
        graded = grade(collect(policy, RECIPE), RECIPE)
        model = build_reward(policy, RECIPE).train()
        optimizer, schedule = adamw(model, RECIPE)
        rng = np.random.default_rng([RECIPE.seed, 1])
        losses = []
        for _ in range(RECIPE.steps):
            rows = torch.from_numpy(rng.integers(len(graded.ids), size=RECIPE.batch))
            loss = reward_loss(model, graded, rows)
            losses.append(one_update(model, optimizer, schedule, loss))
    assert facts["losses"] == losses
    pairs = zip(found.state_dict().values(), model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", ["gold", "self"])
def test_a_few_dozen_steps_raise_the_share_of_right_tokens_ranked_first(
    policy: Any, kind: Any
) -> None:
    """ "gold" towards the right tokens, "self" towards the model's own best of the policy's top."""
    recipe = replace(RECIPE, alignment=kind, alignment_rows=32, alignment_top=4)
    errors = find_errors(policy, collect(policy, recipe))
    model = build_reward(policy, recipe).train()
    top = errors.policy.topk(4, dim=-1).indices

    def share() -> float:
        values = linearised(model, errors, "soft").detach()
        if kind == "gold":
            return errors.right.gather(1, values.argmax(dim=-1)[:, None]).float().mean().item()
        best = swapped_scores(model, errors, top).argmax(dim=-1)
        return (values.gather(1, top).argmax(dim=-1) == best).float().mean().item()

    before, aligner = share(), Aligner(errors, recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        aligner(model).backward()
        optimizer.step()
    assert share() > before + 0.2


def test_aligned_training_uses_the_controls_batches_and_repeats_bit_for_bit(policy: Any) -> None:
    rows = collect(policy, RECIPE)
    with one_thread():
        control, _ = fit_reward(policy, rows, replace(RECIPE, steps=1))
        kinds = [("gold", 0.0), ("self", 0.0), ("gold", 3.0), ("self", 3.0)]
        for (kind, beta), at in product(kinds, ("errors", "doubts")):
            recipe = replace(RECIPE, steps=1, alignment=kind, alignment_beta=beta, alignment_at=at)
            first, facts = fit_reward(policy, rows, recipe)
            again, _ = fit_reward(policy, rows, recipe)
            assert np.isfinite(facts["losses"]).all()
            weights = [model.state_dict().values() for model in (first, again, control)]
            assert all(torch.equal(a, b) for a, b in zip(*weights[:2], strict=True))
            assert not all(torch.equal(a, b) for a, b in zip(*weights[1:], strict=True))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("alignment", "silver"),
        ("alignment_at", "ends"),
        ("linearisation", "middle"),
        ("rivals", -1),
        ("alignment_weight", 0.0),
        ("alignment_weight", float("inf")),
        ("alignment_rows", 0),
        ("alignment_beta", -1.0),
        ("alignment_top", 1),
    ],
)
def test_options_out_of_range(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{option}="):
        RewardRecipe(**{option: value})
