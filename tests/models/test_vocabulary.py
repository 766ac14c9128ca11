"""Alignment by token string: every policy id meets the reward model's row of the same string."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import model_builders as build
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nabla_eval.errors import ConfigError, VocabularyError
from nabla_eval.models.vocabulary import align, check_overlap, compare, percent


def ids(tokens: str | list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}


def table_of(vocabulary: dict[str, int], rows: int | None = None) -> torch.Tensor:
    """Row = code of the token's letter, so that a row tells whose it is; padding is -1."""
    table = torch.full((rows or len(vocabulary), 2), -1.0)
    for token, index in vocabulary.items():
        table[index] = float(ord(token))
    return table


def test_same_ids_share_the_table_without_a_copy() -> None:
    table = table_of(ids("abcd"))
    embedding, known = align(table, ids("abcd"), ids("abcd"), rows=4)
    assert embedding.data_ptr() == table.data_ptr() and known is None


@given(st.permutations("abcdefgh"), st.permutations("abcdefgh"))
def test_rows_follow_the_string_whatever_the_ids(own: list[str], other: list[str]) -> None:
    policy, reward = ids(own), ids(other)
    embedding, known = align(table_of(reward), policy, reward, rows=8)
    assert torch.equal(embedding, table_of(policy)) and known is None


@pytest.mark.parametrize("reward_rows", [2, 4, 6])
def test_padded_ids_are_unknown_and_zero(reward_rows: int) -> None:
    table = table_of(ids("ab"), rows=reward_rows)
    embedding, known = align(table, ids("ab"), ids("ab"), rows=4)
    assert (embedding.data_ptr() == table.data_ptr()) == (reward_rows >= 4)
    assert known is not None and known.tolist() == [True, True, False, False]
    assert embedding.tolist() == [[97, 97], [98, 98], [0, 0], [0, 0]]


def test_an_id_that_means_another_token_does_not_lend_its_row() -> None:
    table = table_of(reward := {**ids("ab"), "X": 2})
    embedding, _ = align(table, ids("abc"), reward, rows=3, mode="force")
    assert embedding[2].tolist() == [0, 0]
    assert table[2].tolist() == [88, 88], "the reward model's own row must stay"


POLICY = {f"t{i}": i for i in range(200)}


@pytest.mark.parametrize(
    ("policy", "reward", "mode", "words"),
    [
        (POLICY, {t: i for t, i in POLICY.items() if i >= 2}, "align", None),
        (
            POLICY, {t: i for t, i in POLICY.items() if i >= 3}, "align",
            r"197 of the policy's 200 .* lacks 3 \(first: 't0' 0",
        ),
        (ids("ab"), ids("ba"), "align", None),
        (ids("ab"), ids("ba"), "same", r"2 under another id \(first: 'a' 0 vs 1\)"),
        (ids("ab"), ids("bz"), "force", None),
        (
            ids("ab"), ids("yz"), "force",
            "0 of the policy's 2 tokens.* Use a reward model of the policy's family",
        ),
    ],
)  # fmt: skip
def test_how_alike_vocabularies_must_be(
    policy: dict[str, int], reward: dict[str, int], mode: Any, words: str | None
) -> None:
    overlap = compare(policy, reward)
    if words is None:
        check_overlap(overlap, mode)
    else:
        with pytest.raises(VocabularyError, match=words):
            check_overlap(overlap, mode)


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ConfigError, match="align, same, force"):
        check_overlap(compare(ids("a"), ids("a")), "loose")  # type: ignore[arg-type]


def test_percent_never_rounds_up_to_all() -> None:
    assert percent(1) == "100 %"
    assert percent(151664.999 / 151665) == "99.999 %"
    assert percent(0.7224) == "72.2 %"


def test_qwen_generations_share_and_llama_is_a_stranger(real: Callable[[str], Any]) -> None:
    qwen25, qwen3, llama = (
        real(name).get_vocab() for name in (build.QWEN25, build.QWEN3, build.LLAMA)
    )
    newer, older = compare(qwen25, qwen3), compare(qwen3, qwen25)
    assert (newer.policy, newer.missing, newer.moved) == (151665, 0, 0)
    assert (older.missing, older.moved, older.first_missing[0]) == (
        4,
        0,
        ("<tool_response>", 151665),
    )
    for policy, reward, words in (
        (qwen25, llama, r"109566 of the policy's 151665 .* overlap 72.2 %"),
        (llama, qwen3, "overlap 85.4 %"),
    ):
        with pytest.raises(VocabularyError, match=words):
            check_overlap(compare(policy, reward))
