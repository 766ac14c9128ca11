"""The pair's tokenizer agrees with the shipped files, and the prefix oracle with enumeration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from countdown_solutions import problems_with_text, solutions
from hypothesis import given
from hypothesis import strategies as st
from pair_tokenizer import IDS, TOKENS, build_tokenizer, encode_prompt, save_tokenizer
from prefix_oracle import EOS, prefix_labels, prefix_reachable, tokenise
from transformers import AutoTokenizer

from nabla_eval.embedded import countdown, paths
from nabla_training.data import one_solution

BUILT = build_tokenizer()
PROBLEMS = countdown.problems(200, "validation")


@pytest.fixture(scope="module", params=["policy", "reward"])
def shipped(request: pytest.FixtureRequest) -> Any:
    policy, reward = paths()
    return AutoTokenizer.from_pretrained(policy if request.param == "policy" else reward)


@given(st.sampled_from(PROBLEMS))
def test_round_trip_of_problems_and_solutions(problem: countdown.Puzzle) -> None:
    for text in (problem.prompt, one_solution(problem)):
        ids = BUILT(text)["input_ids"]
        assert BUILT.decode(ids) == text
        assert [TOKENS[index] for index in ids] == BUILT.convert_ids_to_tokens(ids)
    assert encode_prompt(problem) == BUILT(problem.prompt)["input_ids"]


@given(st.text(alphabet="0123456789+-*/=;,?", max_size=40))
def test_round_trip_of_any_text_over_the_alphabet(text: str) -> None:
    ids = BUILT(text)["input_ids"]
    assert BUILT.decode(ids) == text
    assert [TOKENS[index] for index in ids] == tokenise(text)


def test_an_integer_is_one_token_whose_id_is_its_value() -> None:
    for value in range(100):
        assert BUILT(str(value))["input_ids"] == [value]


def test_special_tokens() -> None:
    assert BUILT.bos_token is None
    assert len({BUILT.eos_token_id, BUILT.pad_token_id, BUILT.unk_token_id}) == 3
    assert len(BUILT) == len(TOKENS) == len(IDS)
    assert BUILT("x\n")["input_ids"] == [BUILT.unk_token_id] * 2
    assert BUILT("2=2?<eos>")["input_ids"][-1] == BUILT.eos_token_id
    assert (
        BUILT.decode([2, BUILT.eos_token_id, BUILT.pad_token_id], skip_special_tokens=True) == "2"
    )


def test_chat_template_shows_the_user_text_and_closes_the_response() -> None:
    user = {"role": "user", "content": "2,3=5?"}
    assert BUILT.apply_chat_template([user], tokenize=False, add_generation_prompt=True) == "2,3=5?"
    turn = [user, {"role": "assistant", "content": "2+3=5"}]
    assert BUILT.apply_chat_template(turn, tokenize=False) == "2,3=5?2+3=5<eos>"


def test_auto_tokenizer_loads_what_was_built(shipped: Any) -> None:
    """transformers replaces the tokenizer of some model types by its own: ours must survive."""
    assert shipped.get_vocab() == BUILT.get_vocab()
    assert shipped.chat_template == BUILT.chat_template
    assert (shipped.eos_token, shipped.pad_token, shipped.bos_token) == ("<eos>", "<pad>", None)
    for problem in PROBLEMS:
        text = f"{problem.prompt}{one_solution(problem)} 05,114"
        assert shipped(text)["input_ids"] == BUILT(text)["input_ids"]
        assert shipped.decode(encode_prompt(problem)) == problem.prompt


def test_saved_tokenizer_names_the_class_of_transformers_4_too(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    assert '"tokenizer_class": "PreTrainedTokenizerFast"' in (
        tmp_path / "tokenizer_config.json"
    ).read_text(encoding="utf-8")


# --- the prefix oracle ---------------------------------------------------------------------------


@given(problems_with_text())
def test_prefix_labels_agree_with_enumeration(case: tuple[countdown.Puzzle, str]) -> None:
    problem, text = case
    tokens = [*tokenise(text), EOS]
    complete = [[*tokenise(solution), EOS] for solution in solutions(problem)]
    expected = [
        any(solution[:end] == tokens[:end] for solution in complete)
        for end in range(1, len(tokens) + 1)
    ]
    assert prefix_labels(problem, tokens) == expected


def test_prefix_examples() -> None:
    problem = "20,14,7,3=39?"
    for prefix in ("", "20", "20-", "20-14", "20-14=", "20-14=6", "20-14=6;6*7"):
        assert prefix_reachable(problem, prefix), prefix
    for prefix in ("5", "20-14=7", "20-14=6,", "20-14=6<eos>", "=", "20-14=6;6*7=42;42-3=39;"):
        assert not prefix_reachable(problem, prefix), prefix


def test_a_finished_response_admits_nothing_more() -> None:
    assert prefix_labels("2,3=5?", ["2", "+", "3", "=", "5", EOS, EOS]) == [True] * 6 + [False]
