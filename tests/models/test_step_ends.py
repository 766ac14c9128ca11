"""Steps of process rewards: the names and rules that the search methods have too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_builders as build
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nabla_eval import load_pair
from nabla_eval.dto.objective import Site, differentiate, row_gradient
from nabla_eval.engine import naive
from nabla_eval.errors import ConfigError
from nabla_eval.models.step_ends import StepEnds, checked_steps, delimiter_of
from nabla_eval.options import Objective, Steps
from nabla_eval.testing import tiny_pair, tiny_problems

Make = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore:.*SwigPy.*:DeprecationWarning")
LETTERS = "a\n\nb;\n c;d"


def ends(rule: str, text: str = LETTERS) -> list[int]:
    """Where steps end, when every character is a token."""
    decode = lambda ids: "".join(map(chr, ids))  # noqa: E731
    flags = StepEnds(Steps.parse(rule), decode)([ord(letter) for letter in text])
    assert len(flags) == len(text)
    return [i for i, flag in enumerate(flags) if flag]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("newline", [1, 5]),  # the second line break has nothing before it
        ("blank_line", [2]),  # though no token is a blank line
        ("semicolon", [4, 8]),
        (";", [4, 8]),
        ("; ", []),
        ("regex:[bd]", [3, 9]),
        ("tokens:4", [3, 7]),
    ],
)
def test_rules(rule: str, expected: list[int]) -> None:
    assert ends(rule) == expected


def plain(rule: Steps, decode: Any, tokens: list[int]) -> list[bool]:
    """The rule as one would say it: each token's step is decoded and looked at."""
    flags: list[bool] = []
    start = 0
    for i in range(len(tokens)):
        flags.append(rule.complete(decode(tokens[start : i + 1])))
        start = i + 1 if flags[-1] else start
    return flags


@pytest.mark.parametrize(
    "rule", ["newline", "blank_line", "semicolon", ";", "; ", "é;", "regex:é+"]
)
@given(st.lists(st.sampled_from([*b"a\n; ", *"é漢\u2003".encode(), 0]), max_size=60))
def test_steps_of_bytes_end_where_the_plain_rule_ends_them(rule: str, tokens: list[int]) -> None:
    """Tokens of single bytes, which are no text alone; 0 is a special token, and leaves none."""

    def decode(ids: Any) -> str:
        return bytes(index for index in ids if index).decode(errors="replace")

    steps = Steps.parse(rule)
    assert StepEnds(steps, decode)(tokens) == plain(steps, decode, tokens)


@pytest.mark.parametrize("rule", ["newline", "blank_line", "semicolon", "!", "regex:[!]"])
@pytest.mark.parametrize("piece", ["a", "\n", ";", " ", "a;", "a\n\n", "\xff", "\x00"])
def test_a_response_is_decoded_a_few_times_however_long_it_is(rule: str, piece: str) -> None:
    def decoded(length: int) -> int:
        count = 0

        def decode(ids: Any) -> str:
            nonlocal count
            count += len(ids)
            return bytes(index for index in ids if index).decode(errors="replace")

        StepEnds(Steps.parse(rule), decode)(list((piece * length).encode("latin-1"))[:length])
        return count

    assert decoded(2000) <= 2.5 * decoded(1000) + 200
    if piece != "\x00":  # nothing but special tokens
        assert decoded(2000) < 200 * 2000


@pytest.mark.parametrize("wrong", ["regex:(", "tokens:0", "tokens:few"])
def test_rules_that_are_none_are_refused(wrong: str) -> None:
    with pytest.raises(ConfigError):
        Steps.parse(wrong)


def test_what_closes_the_last_step() -> None:
    assert [delimiter_of(rule) for rule in ("newline", "blank_line", "semicolon", "zz")] == [
        "\n", "\n\n", ";", "zz",
    ]  # fmt: skip
    assert delimiter_of("regex:;") is delimiter_of("tokens:3") is None


def test_a_real_tokenizers_pieces(real: Callable[[str], Any]) -> None:
    tokenizer = real(build.QWEN25)
    assert checked_steps(tokenizer, "blank_line") == Steps.parse("blank_line")
    ids = tokenizer("So 2.\n\nThen\n3.\n\n\n4")["input_ids"]
    flags = StepEnds(Steps.parse("blank_line"), tokenizer.decode)(ids)
    steps, own = [], []
    for index, flag in zip(ids, flags, strict=True):
        own.append(index)
        if flag:
            steps.append(tokenizer.decode(own))
            own = []
    assert steps == ["So 2.\n\n", "Then\n3.\n\n\n"]


@pytest.mark.parametrize("rule", [";", "semicolon"])
def test_steps_of_a_loaded_process_reward(checkpoints: Make, rule: str) -> None:
    policy, reward = checkpoints("policy"), checkpoints("process")
    pair = load_pair(policy, reward, step_delimiter=rule)
    after = pair.judge.affixes([{"role": "user", "content": "1"}]).after
    assert pair.policy.decode(after) == ";"
    assert pair.judge.ends is not None
    tokens = pair.policy.encode("1+1=2;2+1=3", special=False)
    text = [pair.policy.decode([token]) for token in tokens]
    assert pair.judge.ends(tokens) == [piece == ";" for piece in text]
    with pytest.raises(ConfigError, match="No token of the policy ends in step_delimiter='zz'"):
        load_pair(policy, reward, step_delimiter="zz")
    with pytest.raises(ConfigError, match="needs a process reward"):
        load_pair(policy, checkpoints("outcome"), step_delimiter=rule)


@pytest.mark.parametrize("rule", ["semicolon", "regex:[02468]", "tokens:3"])
def test_the_gradient_counts_scores_at_the_ends_of_steps(rule: str) -> None:
    pair = tiny_pair(seed=1)
    ended = dataclasses.replace(
        pair.judge,
        ends=StepEnds(Steps.parse(rule), lambda ids: "".join("0123456789;"[i % 11] for i in ids)),
    )
    stepped = dataclasses.replace(pair, reward=ended)
    (problem,) = tiny_problems(pair, 1)
    tokens = tuple((3 * i) % pair.policy.vocabulary for i in range(12))
    site = Site(problem.prompt, problem.affixes, tokens, len(tokens))
    objective = Objective(reward_gradient="process", nll_weight=0.0)
    expected = naive.token_gradient(stepped, problem, list(tokens), len(tokens), objective)
    found = []
    for own in (stepped, pair):
        (backward,) = differentiate(own, [site], objective)
        found.append(row_gradient(own, backward, range(len(tokens)), objective))
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-10)
    assert not torch.allclose(found[1], expected)
