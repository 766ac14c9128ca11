"""The beds' generators, estimators, decisions and page: everything but the training."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from typing import Any

import countdown_bed
import countdown_models
import length_bed
import numpy as np
import pytest
import torch
import width_bed
import words_bed
from chains import (
    LOW,
    Facts,
    draw_problems,
    plausibility,
    sample_responses,
    shares_a_digit,
    wrong_values,
)
from kept import kept_json, kept_model
from length_bed import Drafts, gradients, in_place
from margins import Family, Tried, best_setting, compare, crossed, headline, leads, margin
from plain_sampling import sample
from recipe_page import RECIPES, difference, effects, recipe, recipe_answer
from regimes_page import draw_map, page, words
from run_folders import as_run, record
from tiny_reward import WINDOW, TinyReward, linearised
from torch.nn.functional import logsigmoid, one_hot
from width_bed import DRAWN, Errors, decide, draw_split, ordered, same_place_auc

from nabla_eval.embedded.countdown import problems


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the task ---


def test_problems_differ_and_splits_share_none() -> None:
    parts = [draw_split(split) for split in DRAWN]
    names = [
        {(int(s), *c.flatten().tolist()) for s, c in zip(p.start, p.conditions, strict=True)}
        for p in parts
    ]
    assert [len(n) for n in names] == list(DRAWN.values())
    assert not names[0] & names[1]


def test_answers_follow_from_the_facts() -> None:
    problems, facts = draw_problems(50, 3, generator()), Facts.make()
    a, b = problems.conditions.unbind(-1)
    assert (problems.answer == facts.high[a] * LOW + facts.low[b]).all()


def test_wrong_values_are_wrong_and_mostly_near() -> None:
    right = torch.randint(128, (6000,), generator=generator())
    wrong = wrong_values(right, generator(1))
    assert (wrong != right).all()
    near = shares_a_digit(right).gather(1, wrong[:, None]).float().mean()
    # Two thirds share a digit by intent, and 22 of 127 of the others by chance; 5 sigma.
    expected = 2 / 3 + 22 / 127 / 3
    assert abs(float(near) - expected) < 5 * math.sqrt(expected * (1 - expected) / 6000)


def test_a_share_of_training_steps_is_right() -> None:
    problems, written = sample_responses(2000, 3, 0.5, generator())
    share = float((written == problems.answer).float().mean())
    assert abs(share - 0.5) < 5 * math.sqrt(0.25 / 6000)


@pytest.mark.parametrize("width", [3, 8, 128])
def test_the_policy_knows_exactly_k_values_and_the_right_one(width: int) -> None:
    right = torch.randint(128, (300,), generator=generator())
    policy = plausibility(right, width, 0.25, generator(2))
    assert (policy.isfinite().sum(1) == width).all()
    assert policy.gather(1, right[:, None]).isfinite().all()
    torch.testing.assert_close(policy.exp().sum(1), torch.ones(300))


# --- the reward model ---


def test_g_is_the_directional_derivative() -> None:
    model = TinyReward(0).double()
    problems = draw_problems(3, 2, generator())
    written, place = problems.answer, torch.tensor([0, 1, 1])
    mixture = (6 * torch.rand(3, 128, dtype=torch.float64, generator=generator(1))).softmax(1)
    G = linearised(model, problems, written, place, mixture)
    token, step, rows = torch.tensor([5, 80, 127]), 1e-6, torch.arange(3)

    def value(size: float) -> Any:
        inner = (mixture + size * one_hot(token, 128)) @ model.value.weight
        results = model.value(written).index_put((rows, place), inner)
        return logsigmoid(model.scores(problems, results)[rows, place]).detach()

    slope = (value(step) - value(-step)) / (2 * step)
    torch.testing.assert_close(G[rows, token].detach(), slope, rtol=1e-6, atol=1e-7)


def test_one_pass_gives_the_gradient_at_every_site() -> None:
    model = TinyReward(1)
    problems = draw_problems(2, 4, generator())
    ones = torch.ones(2, 4)
    together = gradients(model, problems, model.value(problems.answer), ones)
    for site in range(4):
        place = torch.full((2,), site)
        hard = one_hot(problems.answer[:, site], 128).float()
        inner = hard @ model.value.weight
        results = model.value(problems.answer).detach().index_put((torch.arange(2), place), inner)
        found = torch.autograd.grad(
            logsigmoid(model.scores(problems, results)).sum(), inner, retain_graph=False
        )[0]
        torch.testing.assert_close(together[:, site], found @ model.value.weight.T)


def test_scores_see_neither_ahead_nor_beyond_the_window() -> None:
    model = TinyReward(2)
    problems = draw_problems(1, 20, generator())
    tokens = problems.answer
    base = model.scores(problems, model.value(tokens))
    changed = tokens.clone()
    changed[0, 10] = (tokens[0, 10] + 1) % 128
    moved = (model.scores(problems, model.value(changed)) - base)[0].abs() > 1e-6
    reach = len(model.blocks) * (WINDOW - 1) // 2
    assert not moved[:10].any() and moved[10] and not moved[10 + reach + 1 :].any()


# --- decisions ---


def errors() -> Errors:
    problems = draw_problems(40, 1, generator(3))
    policy = plausibility(problems.answer[:, 0], 8, -9.0, generator(4))  # the right one comes last
    return Errors(problems, policy, policy.argmax(1), 1.0, torch.ones(40, dtype=torch.bool))


def test_exact_scores_find_the_right_token_once_it_is_among_the_scored() -> None:
    found = errors()
    exact = one_hot(found.right, 128).float() * 10 - 5
    for most, expected in ((6, 0.0), (7, 1.0), (64, 1.0)):
        right, scored = decide(found, ordered(found, None, 0.0), exact, most, None)
        assert right.mean() == expected and (scored == min(most, 7)).all()
    right, scored = decide(found, ordered(found, None, 0.0), exact, 64, 0.0)
    assert right.all() and (scored == 7).all()


def test_a_ranking_that_knows_needs_no_verification() -> None:
    found = errors()
    ranking = one_hot(found.right, 128).float()
    right, scored = decide(found, ordered(found, ranking, 100.0), torch.zeros(40, 128), 0, None)
    assert right.all() and not scored.any()
    right, scored = decide(found, ordered(found, ranking, 100.0), ranking * 10 - 5, 64, 0.0)
    assert right.all() and (scored == 1).all()


def test_same_place_auc_counts_ties_half() -> None:
    found = errors()
    assert same_place_auc(found, torch.zeros(40, 128)) == 0.5
    assert same_place_auc(found, one_hot(found.right, 128).float()) == 1.0


def test_in_place_repairs_never_lower_a_site() -> None:
    model = TinyReward(3)
    problems = draw_problems(3, 6, generator(5))
    policy = plausibility(problems.answer, 8, 0.25, generator(6))
    drafts = Drafts(problems, policy, policy.argmax(-1))
    for ranking in ("policy", "head", "soft", "gibbs"):
        curve = in_place(model, drafts, ranking, 3.0)
        calls = [row["calls"] for row in curve]
        assert calls[0] == 7 and calls == sorted(calls)
        assert curve[0]["right"] == [0.0, 0.0, 0.0]
    assert calls[1] - calls[0] == 5  # a gradient pass and a scoring a round


# --- Countdown ---


def countdown_places(count: int = 12) -> countdown_models.Places:
    asked = problems(count, "validation")
    said = sample(countdown_models.shipped()[0], asked, temperature=0.7, generator=generator(1))
    return countdown_models.places(
        countdown_models.shipped()[0], list(zip(asked, said, strict=True))
    )


def test_places_end_at_the_first_wrong_token() -> None:
    found = countdown_places()
    right = found.right.gather(1, found.written[:, None])[:, 0]
    last = torch.cat([found.row[1:] != found.row[:-1], torch.tensor([True])])
    assert right[~last].all() and not right[last].all()
    assert found.right.any(1).all()
    written = countdown_models.results(found)
    assert (written.right.sum(1) == 1).all() and 0 < len(written) < len(found)


def test_swapped_scores_and_g_agree_with_the_reward_model() -> None:
    found, model = countdown_places(), countdown_models.shipped()[1]
    own = countdown_models.swapped(model, found, found.written[:, None])[:, 0]
    direct = model(input_ids=found.ids).logits[torch.arange(len(found)), found.place, 0]
    torch.testing.assert_close(own, direct, rtol=1e-4, atol=1e-4)
    hard = one_hot(found.written, found.policy.shape[1]).double()
    at, model = replace(found, policy=hard.log()), copy.deepcopy(model).double()
    G = countdown_models.linearised(model, at).detach()
    table, step = model.get_input_embeddings().weight, 1e-2  # norms are taken in float32

    def value(size: float) -> Any:
        embeds = table[at.ids].clone()
        embeds[torch.arange(len(at)), at.place] += size * table[7]
        scores = model(inputs_embeds=embeds).logits[torch.arange(len(at)), at.place, 0]
        return logsigmoid(scores).detach()

    torch.testing.assert_close(
        G[:, 7], (value(step) - value(-step)) / (2 * step), rtol=0.01, atol=1e-3
    )


def test_the_made_policy_knows_k_values_and_the_right_one() -> None:
    right = torch.randint(1, 100, (300,), generator=generator())
    policy = countdown_models.made_policy(right, 8, generator(1))
    assert (policy.isfinite().sum(1) == 8).all() and not policy[:, 0].isfinite().any()
    assert policy.gather(1, right[:, None]).isfinite().all()
    assert not policy[:, 100:].isfinite().any()


def test_alignment_moves_g_towards_right_tokens() -> None:
    found = countdown_models.results(countdown_places())
    made = countdown_models.made_policy(found.right.int().argmax(1), 8, generator(2))
    found, model = replace(found, policy=made), copy.deepcopy(countdown_models.shipped()[1])
    model.requires_grad_(True)
    optimiser = torch.optim.Adam(model.parameters(), 1e-4)
    terms = []
    for _ in range(5):
        term = countdown_models.aligned_term(model, found, gold=True)
        optimiser.zero_grad()
        term.backward()
        optimiser.step()
        terms.append(term.item())
    assert terms[-1] < terms[0]
    assert countdown_models.aligned_term(model, found, gold=False).item() > 0


def test_countdown_runs_from_models_to_page(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(countdown_models.RECIPE, steps=2, batch=4, questions=8, samples=1)
    monkeypatch.setattr(countdown_models, "RECIPE", small)
    monkeypatch.setattr(countdown_models, "LATE", 1)
    monkeypatch.setattr(countdown_bed, "DRAWN", {"validation": 8, "test": 12})
    monkeypatch.setattr(countdown_bed, "RESULTS", {"validation": 5, "test": 9})
    countdown_models.lessons.cache_clear()
    countdown_bed.drawn.cache_clear()
    found = countdown_bed.run(tmp_path, 2, 1)
    countdown_models.lessons.cache_clear()
    countdown_bed.drawn.cache_clear()
    assert len(list(tmp_path.glob("*.pt"))) == 2 * 5
    shown = recipe({"countdown": found})
    assert "**gated out**" in shown and "| shipped, late, own scores |" in shown
    assert "2 reward seeds, of which 1 jointly" in shown


def recipes(*shares: float, lead: float, learned: bool = True, **more: Any) -> dict[str, Any]:
    firsts = {kind: [share, share + 0.01] for kind, share in zip(RECIPES, shares, strict=True)}
    value = {"value": lead, "low": lead - 0.01, "high": lead + 0.01, "p": 0.0, "by_seed": [lead]}
    least = {"least": value}
    firsts[RECIPES[0]] = [shares[0] - 0.19, shares[0] + 0.2]  # seeds vary by more than recipes
    return {
        "first": firsts, "learned": dict.fromkeys(RECIPES, learned), "width": 8,
        "auc": {k: [0.95 if learned else 0.7] for k in RECIPES},
        "leads": dict.fromkeys(RECIPES, least), **more,
    }  # fmt: skip


def test_what_a_factor_changes_is_told_of_what_learned() -> None:
    facts = recipes(0.5, 0.3, 0.6, 0.35, lead=0.3)
    assert difference(facts, "right tokens less own scores, late")["value"] == pytest.approx(0.25)
    hard = {"learned": False, "where": "first errors", "outside": 0.2}
    cells = [recipes(0.2, 0.1, 0.1, 0.1, lead=lead, **hard) for lead in (-0.01, 0.1)]
    told = recipe_answer([facts], cells[:1])
    assert (
        "late +25.0, +0.0*; jointly +20.0, +10.0*" in told and "-1.0 [-2.0, +0.0]* (Count" in told
    )
    assert "is gated out: exact scores reach at most AUC 0.70" in told
    assert "prototype" in told and "prototype" not in recipe_answer([facts], cells)
    table = effects([facts, cells[0]])
    assert "| 20.5* |" in table and "| +0.0 [+0.0, +0.0]* |" in table


# --- estimates ---


def test_crossed_intervals_cover_what_both_seeds_and_problems_vary() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(150):
        values = rng.normal(size=(5, 1)) + 2 * rng.normal(size=(1, 60)) + rng.normal(size=(5, 60))
        found = crossed(values)
        hits += found.low <= 0 <= found.high
    assert hits / 150 > 0.92  # of problems alone it would be a half
    assert crossed(np.ones((5, 9))).interval == (1.0, 1.0)
    one = crossed(np.arange(9.0)[None])
    assert one.value == 4.0 and math.isnan(one.low) and math.isnan(one.high)


def family(first: bool, right: list[float], calls: list[float], shift: float = 0.0) -> Family:
    rng = np.random.default_rng(int(10 * sum(right)))
    drawn = rng.random((len(right), 5, 80))

    def tried(move: float) -> Tried:
        values = (drawn < np.array(right)[:, None, None] + move).astype(float)
        cost = np.broadcast_to(np.array(calls)[:, None, None], values.shape)
        return Tried(values, cost, cost)

    return Family(first, False, [f"{c:g}" for c in calls], tried(0.0), tried(shift))


def one_seed(own: Family) -> Family:
    parts = [
        Tried(t.right[:, :1], t.calls[:, :1], t.flops[:, :1]) for t in (own.validation, own.test)
    ]
    return Family(own.first_order, own.gold, own.settings, *parts)


def test_settings_are_chosen_on_validation_within_the_limit() -> None:
    found = family(True, [0.2, 0.9, 0.95], [1.0, 3.0, 9.0])
    assert [best_setting(found, limit, "calls") for limit in (0.5, 1, 3, 9)] == [None, 0, 1, 2]


def test_the_goal_needs_every_control() -> None:
    families = {
        "G": family(True, [0.9], [3.0]),
        "policy": family(False, [0.3], [3.0]),
        "head": family(False, [0.99], [2.0]),
    }
    rows = compare(families, np.arange(80), [1.0, 3.0], "calls")
    assert not rows[0]["margins"]
    full, bare = headline(rows), headline(rows, ("head",))
    assert not full["leads"] and full["rival"] == "head" and full["least"]["value"] < 0
    assert bare["leads"] and bare["rival"] == "policy" and bare["least"]["p"] < 0.001


def test_one_bad_seed_fails_the_goal() -> None:
    ours = np.ones((5, 50))
    theirs = np.zeros((5, 50))
    assert leads(margin(ours, theirs, np.arange(50)))
    theirs[4] = 1.0
    assert not leads(margin(ours, theirs, np.arange(50)))


def test_four_seeds_do_not_meet_the_goal() -> None:
    assert not leads(margin(np.ones((4, 50)), np.zeros((4, 50)), np.arange(50)))


# --- files and page ---


def test_what_was_made_is_kept(tmp_path: Any) -> None:
    path = tmp_path / "deep" / "cell.json"
    assert kept_json(path, ("rate", 0.1), lambda: [1]) == [1]
    assert kept_json(path, ("rate", 0.1), lambda: pytest.fail("made twice")) == [1]
    assert kept_json(path, ("rate", 0.2), lambda: [2]) == [2]
    names = [p.name.split(".") for p in path.parent.iterdir()]
    assert [(n[0], n[-1]) for n in names] == [("cell", "json")] * 2


def test_a_kept_model_is_of_its_settings(tmp_path: Any) -> None:
    def kept(rate: float, weight: float) -> float:
        model = torch.nn.Linear(1, 1)
        train = partial(torch.nn.init.constant_, model.weight, weight)
        kept_model(tmp_path / "plain-0.pt", rate, model, train)
        assert not model.weight.requires_grad
        return float(model.weight)

    assert [kept(0.1, 1.0), kept(0.1, 2.0), kept(0.2, 3.0)] == [1.0, 1.0, 3.0]


def test_a_cell_that_was_not_learned_counts_for_nothing() -> None:
    families = {"G": family(True, [0.9], [3.0]), "policy": family(False, [0.3], [3.0])}
    rows = compare(families, np.arange(80), [3.0], "calls")
    cell = {
        "width": 8, "auc": {"plain": [0.95] * 5}, "outside": 0.8, "learned": True,
        "first": {"policy": [0.1]}, "calls": rows, "flops": rows,
    }  # fmt: skip
    few = compare({n: one_seed(f) for n, f in families.items()}, np.arange(80), [3.0], "calls")
    shown = page({"width": [{**cell, "calls": few, "flops": few}]})
    assert "1 of 5 reward seeds were run" in shown and "| not judged |" in shown
    assert "| met |" not in shown and "In none" not in shown
    shown = page({"width": [cell]})
    assert "leads every control, heads included, in width, K = 8 (equal calls)" in shown
    assert "| G | 9" in shown
    hidden = page({"width": [cell, {**cell, "width": 3, "learned": False}]})
    assert "| width, K = 3 | not learned" in hidden and "of 2 comparisons" in hidden


def test_beds_run_from_models_to_page(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def untrained(folder: Any, kind: str, seed: int) -> TinyReward:
        model: TinyReward = TinyReward(seed).requires_grad_(False)
        return model

    for bed in (width_bed, length_bed):
        monkeypatch.setattr(bed, "load", untrained)
    monkeypatch.setattr(width_bed, "DRAWN", {"validation": 8, "test": 12})
    monkeypatch.setattr(width_bed, "WIDTHS", (8,))
    monkeypatch.setattr(width_bed, "STEPS", 2)
    monkeypatch.setattr(length_bed, "DRAWN", {"validation": 2, "test": 3})
    monkeypatch.setattr(length_bed, "CELLS", ((6, 8),))
    monkeypatch.setattr(length_bed, "ROUNDS", dict.fromkeys(length_bed.ROUNDS, 2))
    figures = {
        "width": width_bed.run(tmp_path / "w", 2),
        "length": length_bed.run(tmp_path, tmp_path, 2),
    }
    assert "| width, K = 8 | not learned" in page(figures)  # nothing was trained
    for bed_cells in figures.values():
        bed_cells[0]["learned"] = True
    shown = page(figures)
    assert "| aligned G, in place |" in shown and "| head on the frozen trunk |" in shown
    assert draw_map(figures).startswith(b"\x89PNG")


def test_margins_on_words_are_over_what_a_rival_does_at_that_cost() -> None:
    def tried(calls: float, right: int) -> Any:
        records = [record(i, calls=calls) for i in range(8)]
        return as_run(records, {f"toy/{i}": [float(i < right)] for i in range(8)})

    found = words_bed.figures([
        (tried(20, 4), "nabla", 2), (tried(60, 3), "nabla", 4), (tried(10, 4), "best-of-n", 2),
        (tried(30, 8), "best-of-n", 4), (tried(20, 4), "twin", 2), (tried(60, 4), "twin", 4),
    ])  # fmt: skip
    margins = {(m["rival"], m["n"], m["unit"]): m["value"] for m in found["margins"]}
    assert margins.pop(("best-of-n", 2, "flops")) == pytest.approx(-0.25)  # over half of each
    assert margins == {
        ("best-of-n", 2, "model_calls"): pytest.approx(-0.25),
        **{("twin", n, unit): v for n, v in ((2, 0), (4, -0.125)) for unit in words_bed.UNITS},
    }
    shown = words(found)
    assert "| ∇-Reasoner | 50 (20) | 38 (60) |" in shown and "| calls | best-of-N | -25.0" in shown
