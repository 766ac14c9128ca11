"""Training data, labels and losses; a run of seconds that learns and repeats bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pair_tokenizer import EOS_ID, PAD_ID, TOKENS, encode_prompt, token_strings
from plain_sampling import prefix_scores, response_text, sample, token_logits
from prefix_oracle import tokenise
from train import FACTS, main, train_pair
from train_policy import (
    PolicyRecipe,
    as_llama,
    build_policy,
    one_thread,
    train_policy,
)
from train_reward import RewardRecipe, build_reward, grade, reward_loss, train_reward
from training_rows import TrainingRows, random_chains
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

from nabla_eval.embedded import paths
from nabla_eval.embedded.card import read_card, render_card, verify_files
from nabla_eval.embedded.countdown import Puzzle, split_of, verify
from nabla_eval.errors import ConfigError, ModelError

TINY = PolicyRecipe(
    steps=30, batch=32, warmup=5, walks=20_000, hidden=32, layers=1, heads=2, feed_forward=32
)
TINY_REWARD = RewardRecipe(steps=8, batch=32, questions=16, samples=2, warmup=2)


def rows(numbers: int = 4, mismatched: float = 0.5) -> TrainingRows:
    rng = np.random.default_rng(3)
    return TrainingRows(walks=20_000, numbers=numbers, mismatched=mismatched, rng=rng)


@pytest.fixture(scope="module")
def tiny() -> Any:
    with one_thread():
        return train_policy(TINY)[0]


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [2, 3, 4])
def test_random_chains_are_solutions_of_their_result(numbers: int) -> None:
    inputs, result, responses = random_chains(500, numbers, np.random.default_rng(0))
    assert len(inputs) > 250
    for given, target, ids in zip(
        inputs.tolist(), result.tolist(), responses.tolist(), strict=True
    ):
        assert ids[-1] == EOS_ID
        assert verify(Puzzle(tuple(given), target), response_text(ids))


def test_every_legal_step_can_be_drawn() -> None:
    """12 and 4: all four operators, each calculation written in its one way."""
    inputs, _, responses = random_chains(400_000, 2, np.random.default_rng(0))
    chosen = responses[(np.sort(inputs, axis=1) == [4, 12]).all(axis=1)]
    found = {response_text(ids) for ids in chosen.tolist()}
    assert found == {"12+4=16", "12-4=8", "12*4=48", "12/4=3"}


def test_no_row_not_even_a_mismatched_one_shows_a_problem_outside_training() -> None:
    ids, labels = rows().batch(2000)
    mismatched = 0
    for row, label in zip(ids.tolist(), labels.tolist(), strict=True):
        problem = Puzzle.from_prompt("".join(token_strings(row[:10])))
        assert split_of(problem) == "train"
        right = verify(problem, response_text(row[10:]))
        assert label[:10] == [-100] * 10
        if label[10:] == row[10:]:
            assert right
        else:
            mismatched += 1
            forced = [token if i % 6 >= 3 else -100 for i, token in enumerate(row[10:])]
            assert label[10:] == forced
    assert 600 < mismatched < 1100  # half, less those that a test problem's prompt kept as they are


def test_problems_are_drawn_equally_often_whatever_their_solutions() -> None:
    """With 2 numbers: a problem with many walks gets no more rows than one with few."""
    data = rows(numbers=2, mismatched=0.0)
    ids, _ = data.batch(40_000)
    seen = [
        Puzzle.from_prompt("".join(token_strings(row[:6]))).canonical for row in ids[:, :6].tolist()
    ]
    counts = np.array([seen.count(problem) for problem in data.canonical_problems()])
    expected = len(seen) / data.problems
    # Each count is binomial; 6 standard deviations over about 1000 problems fail with p < 1e-5.
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected)


# --- policy -------------------------------------------------------------------------------------


def test_a_short_run_learns_and_repeats_bit_for_bit(tiny: Any) -> None:
    with one_thread():
        again, facts = train_policy(TINY)
        other, _ = train_policy(PolicyRecipe(**{**vars(TINY), "seed": 1, "steps": 2}))
    assert np.mean(facts["losses"][-5:]) < 0.8 * facts["losses"][0]
    first, second = tiny.state_dict(), again.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    name = "model.embed_tokens.weight"
    assert not torch.equal(first[name], other.state_dict()[name])


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_policy(TINY)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_llama_form_is_the_same_function() -> None:
    qwen = build_policy(TINY)
    assert isinstance(qwen, Qwen2ForCausalLM)
    with torch.no_grad():
        for name, parameter in qwen.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        ids = torch.arange(60).reshape(3, 20)
        torch.testing.assert_close(as_llama(qwen)(ids).logits, qwen(ids).logits)


def test_greedy_sampling_follows_the_logits(tiny: Any) -> None:
    problems = [Puzzle((1, 2, 3, 4), 10), Puzzle((5, 6, 7, 8), 26)]
    responses = sample(tiny, problems, temperature=0, generator=torch.Generator())
    logits = token_logits(tiny, problems, responses)
    for response, values in zip(responses, logits, strict=True):
        assert values.shape == (len(response), len(TOKENS))
        assert values.argmax(dim=-1).tolist() == response
        assert EOS_ID not in response[:-1] and len(response) <= 18


def test_sampling_has_the_distribution_of_the_softmax(tiny: Any) -> None:
    """First token of 4000 draws; chi-square over common tokens fails with probability 1e-6."""
    from scipy.stats import chi2

    problem, draws, temperature = Puzzle((1, 2, 3, 4), 10), 4000, 0.7
    generator = torch.Generator().manual_seed(0)
    responses = sample(tiny, [problem] * draws, temperature=temperature, generator=generator)
    logits = token_logits(tiny, [problem], [responses[0]])[0][0]
    expected = draws * (logits.double() / temperature).softmax(dim=-1)
    counts = torch.bincount(torch.tensor([ids[0] for ids in responses]), minlength=len(TOKENS))
    common = expected >= 5
    cells = torch.cat([expected[common], expected[~common].sum()[None]])
    found = torch.cat([counts[common], counts[~common].sum()[None]])
    statistic = ((found - cells) ** 2 / cells).sum().item()
    assert common.sum() > 2
    assert statistic < chi2.ppf(1 - 1e-6, df=len(cells) - 1)


# --- reward model -------------------------------------------------------------------------------


def ids_of(text: str) -> list[int]:
    return [TOKENS.index(token) for token in tokenise(text)]


def test_grades_and_weights_of_right_wrong_and_cut_responses() -> None:
    problem = Puzzle((1, 2, 3, 4), 10)
    right = ids_of("1+2=3;3+3=6;6+4=10<eos>")
    wrong = ids_of("1+2=4;4+3=7;7+4=11<eos>")
    cut = ids_of("1+2<eos>")
    graded = grade([(problem, right), (problem, wrong), (problem, cut)], RewardRecipe())
    start = len(encode_prompt(problem))
    assert graded.ids.shape == (3, start + 18)
    assert graded.last.tolist() == [start + 17, start + 17, start + 3]
    assert graded.alive[0, start:].tolist() == [1.0] * 18
    assert graded.alive[1, start:].tolist() == [1.0] * 4 + [0.0] * 14
    assert graded.weight[0, start:].tolist() == [1.0] * 18
    expected = torch.tensor([1.0] * 4 + [3.0] + [0.2] * 13)
    torch.testing.assert_close(graded.weight[1, start:], expected)
    torch.testing.assert_close(
        graded.weight[2, start:], torch.tensor([1.0, 1.0, 1.0, 3.0] + [0.0] * 14)
    )
    assert (graded.ids[2, start + 4 :] == PAD_ID).all()
    assert (graded.weight[:, :start] == 0).all()


def test_reward_loss_is_the_formula() -> None:
    """Cross-entropy at the closing token plus the weighted mean over the prefixes, by hand."""
    problem = Puzzle((1, 2, 3, 4), 10)
    responses = [ids_of("1+2=3;3+3=6;6+4=10<eos>"), ids_of("1+2=4;4+3<eos>")]
    graded = grade([(problem, response) for response in responses], RewardRecipe())
    model = build_reward(as_llama(build_policy(TINY)), RewardRecipe()).eval()
    scores = prefix_scores(model, [problem] * 2, responses)
    final = prefix = total = 0.0
    for row, score in enumerate(scores):
        begin = len(encode_prompt(problem))
        for place, value in enumerate(score.double().tolist()):
            sign = 1.0 if graded.alive[row, begin + place] == 1 else -1.0
            loss = float(np.log1p(np.exp(-sign * value)))
            weight = graded.weight[row, begin + place].item()
            prefix, total = prefix + weight * loss, total + weight
        final += loss / 2
    measured = reward_loss(model, graded, torch.tensor([0, 1])).item()
    assert measured == pytest.approx(final + prefix / total, rel=1e-5)


def test_the_reward_model_starts_as_the_policys_body(tiny: Any) -> None:
    reward = build_reward(tiny, TINY_REWARD)
    body = tiny.model.state_dict()
    assert all(torch.equal(body[k], v) for k, v in reward.model.state_dict().items())
    assert reward.score.out_features == 1


def test_reward_training_learns_and_repeats_bit_for_bit(tiny: Any) -> None:
    with one_thread():
        first, facts = train_reward(tiny, TINY_REWARD)
        second, _ = train_reward(tiny, TINY_REWARD)
    assert facts["losses"][-1] < facts["losses"][0]
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


# --- the whole command --------------------------------------------------------------------------


def test_train_pair_writes_a_pair_that_its_card_describes(tmp_path: Path) -> None:
    titles: list[str] = []

    def stage(title: str, steps: int) -> Any:
        titles.append(title)
        return lambda step, loss: None

    recipe = PolicyRecipe(**{**vars(TINY), "steps": 3})
    card = train_pair(tmp_path, recipe, TINY_REWARD, stage=stage, test_problems=16)
    assert card == read_card(tmp_path) and verify_files(tmp_path) == []
    assert titles == ["policy", "reward model", "measuring on test problems"]
    assert card["disjointness"]["shared_with_policy_training"] == 0
    assert card["disjointness"]["shared_with_reward_training"] == 0
    assert f"| steps × batch | 3 × {recipe.batch} |" in render_card(card)

    before = (tmp_path / "reward" / "model.safetensors").read_bytes()
    again = train_pair(tmp_path, recipe, TINY_REWARD, stage=stage, only="reward", test_problems=16)
    assert (tmp_path / "reward" / "model.safetensors").read_bytes() == before
    assert again["measured"] == card["measured"] and again["policy"] == card["policy"]

    (tmp_path / FACTS).unlink()  # as in a copy of the shipped pair
    copied = train_pair(tmp_path, recipe, TINY_REWARD, stage=stage, only="reward", test_problems=16)
    assert copied["policy"] == card["policy"]


def test_a_policy_may_start_from_the_shipped_one() -> None:
    """The same function before the first step, in the class that training uses."""
    shipped = AutoModelForCausalLM.from_pretrained(paths()[0], dtype=torch.float32).eval()
    started = build_policy(PolicyRecipe(numbers=4, start="shipped")).eval()
    ids = torch.tensor([encode_prompt(Puzzle((20, 14, 7, 3), 39))])
    with torch.inference_mode():
        torch.testing.assert_close(started(ids).logits, shipped(ids).logits)
    with pytest.raises(ConfigError, match=r"start must be .*somewhere"):
        PolicyRecipe(start="somewhere")  # type: ignore[arg-type]


def test_reward_only_needs_a_policy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No policy at"):
        train_pair(tmp_path, TINY, TINY_REWARD, stage=lambda *_: None, only="reward")


@pytest.mark.parametrize("content", ["", "[", '{"policy": 5}'])
def test_a_policy_to_start_from_that_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "policy").mkdir()
    shutil.copy(paths()[0] / "config.json", tmp_path / "policy")
    (tmp_path / "card.json").write_text(content)
    words = ["--output", str(tmp_path), "--reward-only"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and "Error: The policy at " in result.output


def test_weights_that_another_class_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_policy(PolicyRecipe(hidden=32, layers=2, heads=2, feed_forward=32))
    model.register_parameter("extra", torch.nn.Parameter(torch.ones(1)))
    with pytest.raises(
        ModelError, match=r"Qwen2 and Llama layers differ .* \['extra'\] unexpected"
    ):
        as_llama(model)
    known = AutoModelForCausalLM.from_pretrained(paths()[0])
    torch.nn.init.ones_(known.model.layers[0].self_attn.o_proj.bias)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: known)
    with pytest.raises(ModelError, match=r"weights that Qwen2 does not know: .*o_proj\.bias"):
        build_policy(PolicyRecipe(start="shipped"))


def test_minutes_choose_the_steps() -> None:
    result = CliRunner().invoke(main, ["--output", "x", "--minutes", "1", "--policy-steps", "3"])
    assert result.exit_code == 2 and "--minutes chooses the steps" in result.output
