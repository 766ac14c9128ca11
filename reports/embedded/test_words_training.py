"""Rows, labels, losses and checkpoints of the words pair; a run of seconds that can be stopped."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_sampling import sample
from train_policy import one_thread
from train_words import WANTED, main, prefix_aucs, wanted
from words_forward import hidden_states
from words_policy import build_words_policy, train_words_policy
from words_reward import (
    WordsRewardRecipe,
    build_reward,
    coding_of,
    collect,
    labels_of,
    pieces_of,
    reward_batches,
    reward_loss,
)
from words_rows import IGNORED, WordsRecipe, batches, encode, trained_problems
from words_solutions import KINDS, Mistake, misread, write
from words_tokenizer import save_tokenizer

from nabla_eval.embedded import paths
from nabla_eval.embedded.words import first_error, problems, split_of, verify

TINY = WordsRecipe(
    rounds=(6,), stop=6, batch=8, warmup=2, hidden=32, layers=1, heads=2, shared=1, feed_forward=32
)
TINY_REWARD = WordsRewardRecipe(questions=4, samples=2, written=24, batch=8, rounds=(2,))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(paths("words")[0])


def test_written_solutions_are_right_and_mistakes_are_found() -> None:
    rng, wrong = random.Random(0), 0
    for problem in problems(300, "train", seed=5):
        text = write(problem, rng)
        assert verify(problem, text) and first_error(problem, text) is None
        for kind in KINDS:
            other = write(problem, rng, Mistake(rng.randrange(len(problem.steps)), kind))
            error = first_error(problem, other)
            wrong += error is not None
            # A slip of the pen may be made good by a later fraction, and some mistakes are none.
            assert error is not None or verify(problem, other)
    assert wrong > 900


def test_only_comparisons_are_misread_and_about_as_often_as_said() -> None:
    rng, fewer = random.Random(0), []
    for problem in problems(1500, "train", seed=5):
        text = misread(problem, rng)
        error, kinds = first_error(problem, text), {step.kind for step in problem.steps}
        assert error is None or kinds & {"fewer", "more", "times"}
        if "fewer" in kinds and not kinds & {"more", "times", "part", "packed", "sold"}:
            fewer.append(error is not None)
    # Half of single ones, more of several; 5 standard deviations of 30 draws are below 0.46.
    assert 0.05 < sum(fewer) / len(fewer) < 0.95 and len(fewer) > 30


def test_texts_survive_the_tokenizer_and_digits_are_tokens(tokenizer: Any) -> None:
    rng = random.Random(0)
    for problem in problems(20, "test"):
        text = f"{problem.prompt}\n\n{write(problem, rng)}"
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert [pieces_of(tokenizer)[i] for i in ids if "7" in tokenizer.decode([i])] == [
            "7"
        ] * text.count("7")
    chat = [{"role": "user", "content": "a?"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "a?"
    closed = tokenizer.apply_chat_template(
        [*chat, {"role": "assistant", "content": "b"}, *chat], tokenize=False
    )
    assert closed == f"a?b{tokenizer.eos_token}\n\na?"


def test_the_loss_is_on_responses_and_results_of_training_problems(tokenizer: Any) -> None:
    batch = next(batches(tokenizer, 0, TINY))
    kept = batch.labels != IGNORED
    assert torch.equal(batch.labels[kept], batch.ids[kept])
    assert kept.any(dim=1).all() and not kept[:, 0].any()
    assert len(trained_problems(TINY)) > 2048
    assert not trained_problems(TINY) & {p.canonical for p in problems(400, "test")}
    assert {split_of(p) for p in problems(100, "train", seed=1)} == {"train"}


def test_the_fast_forward_pass_is_the_models(tokenizer: Any) -> None:
    model = build_words_policy(TINY, tokenizer)
    batch = next(batches(tokenizer, 0, TINY))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        fast = hidden_states(model.model, batch.ids).float()
        slow = model.model(input_ids=batch.ids).last_hidden_state
    # bfloat16 rounds to 2^-9; a dozen roundings of values of order 1 on the way.
    assert (fast - slow).abs().mean() < 12 * 2**-9 * slow.abs().mean()


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tokenizer: Any, tmp_path: Path) -> None:
    def train(folder: Path, stop: int) -> Any:
        folder.mkdir(exist_ok=True)
        recipe = replace(TINY, stop=stop)
        return train_words_policy(recipe, tokenizer, folder, lambda step, loss: None)

    with one_thread():
        whole, facts = train(tmp_path / "whole", 6)
        train(tmp_path / "parts", 3)
        parts, others = train(tmp_path / "parts", 6)
    assert facts["losses"] == others["losses"] and facts["losses"][-1] < facts["losses"][0]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_labels_end_where_the_first_mistake_begins(tokenizer: Any) -> None:
    problem, rng, pieces = problems(1, "train")[0], random.Random(1), pieces_of(tokenizer)
    right = [*encode(tokenizer, [write(problem, rng)])[0], tokenizer.eos_token_id]
    assert all(labels_of(problem, right, pieces))
    digits = [place for place, token in enumerate(right) if pieces[token].isdigit()]
    for place in digits:
        other = encode(tokenizer, ["1" if pieces[right[place]] != "1" else "2"])[0]
        labels = labels_of(problem, [*right[:place], *other, *right[place + 1 :]], pieces)
        # A number may still go on as another of the problem's; then a later token is wrong.
        assert labels[:place] == [True] * place and not all(labels[place : place + 4])


def test_the_reward_model_learns_from_drawn_and_written_responses(tokenizer: Any) -> None:
    model = build_words_policy(TINY, tokenizer).eval()
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("words_reward.LONGEST", 12)
        rows = collect(model, TINY_REWARD, tokenizer)
    assert len(rows) == 4 * 2 + 24 and all(ids[-1] == tokenizer.eos_token_id for _, ids in rows)
    reward = build_reward(model, 0)
    first, again = (
        [reward_loss(reward, b) for b in islice(reward_batches(rows, TINY_REWARD, tokenizer)(s), 2)]
        for s in (0, 1)
    )
    assert first[1].item() == again[0].item()
    first[0].backward()
    assert reward.model.embed_tokens.weight.grad.abs().sum() > 0


def test_responses_of_prompts_of_other_lengths_come_back_in_order(tokenizer: Any) -> None:
    model, asked = build_words_policy(TINY, tokenizer).eval(), problems(5, "train")
    coding = replace(coding_of(tokenizer), longest=lambda problem: 6)
    options: dict[str, Any] = {"temperature": 0, "generator": torch.Generator(), "coding": coding}
    drawn = sample(model, asked, **options)
    assert sample(model, asked, mixed=True, **options) == drawn
    alone = [sample(model, [problem], **options)[0] for problem in asked]
    assert drawn == alone


def test_prefix_aucs_of_a_perfect_and_of_a_blind_score(tokenizer: Any) -> None:
    pieces, rng = pieces_of(tokenizer), random.Random(2)
    asked = problems(6, "train")
    texts = [write(p, rng, Mistake(0, "slip") if i % 2 else None) for i, p in enumerate(asked)]
    rows = [[*ids, tokenizer.eos_token_id] for ids in encode(tokenizer, texts)]
    labels = [labels_of(p, row, pieces) for p, row in zip(asked, rows, strict=True)]
    for scores, expected in (
        ([torch.tensor([float(x) for x in row]) for row in labels], 1.0),
        ([torch.zeros(len(row)) for row in labels], 0.5),
    ):
        assert prefix_aucs(asked, rows, scores, pieces) == {
            "pooled": expected, "first_error": expected,
        }  # fmt: skip


def test_wanted_figures_are_compared_with_what_was_measured() -> None:
    measured = {
        "greedy_accuracy": {"value": 0.5},
        "response_tokens": {"mean": 97.0},
        "sampled": {
            "T=1.0": {
                "pass@8": {"value": 0.8},
                "reward_auc": {"within_question": None},
                "prefix_auc": {"first_error": 0.9},
                "uncertain_tokens": {"value": 15.0},
            }
        },
    }
    found = {row["figure"]: row["met"] for row in wanted(measured)}
    assert len(found) == len(WANTED)
    assert [name for name, met in found.items() if not met] == [
        "pass@8", "reward AUC within a question",
    ]  # fmt: skip
    assert main.params and save_tokenizer
