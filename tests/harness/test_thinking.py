"""Thoughts are told from answers: when stop strings count, and what is graded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import model_builders as build
import pytest

from nabla_eval.errors import ConfigError
from nabla_eval.harness import arguments, loading
from nabla_eval.harness.lm import NablaLM
from nabla_eval.harness.math_task import grade_batch
from nabla_eval.harness.thinking import Thinking, opening
from nabla_eval.methods.self_consistency import SelfConsistency, self_consistency
from nabla_eval.models.chat import render
from nabla_eval.randomness import Key
from nabla_eval.requests import Frame, Problem, Thought, Trajectory
from nabla_eval.traces.schema import problem_hash

TAGS = Thought("</think>", "<think>")
OPENED = replace(TAGS, opened=True)
PROBLEM = Problem(Key.root(0), (1,), Frame((), ()), 9)


@pytest.mark.parametrize(
    ("thought", "text", "answer"),
    [
        (TAGS, "It is 4.", "It is 4."),  # answered without thinking
        (TAGS, "<think>\n5?\n</think>\n\nIt is 4.", "It is 4."),
        (TAGS, "<think>\nMaybe \\boxed{5}", ""),  # cut off while thinking
        (TAGS, "<think>5?</think> No. <think>\\boxed{6}", ""),
        (TAGS, "<think>5?</think> No. <think>6?</think>4", "4"),
        (OPENED, "Maybe \\boxed{5}", ""),
        (OPENED, "5?</think>4", "4"),
        (Thought(";"), "1;2;3", "3"),
        (Thought(";"), "1", "1"),
        (Thought(";", opened=True), "1", ""),
    ],
)
def test_the_answer_is_what_stands_after_the_last_thought(
    thought: Thought, text: str, answer: str
) -> None:
    assert thought.answer(text) == answer


def test_what_opens_a_thought_follows_from_what_ends_it() -> None:
    pairs = {
        "</think>": "<think>", "[/THINK]": "[THINK]", ";": "",
        "<|end_of_thought|>": "<|begin_of_thought|>",
    }  # fmt: skip
    assert {end: opening(end) for end in pairs} == pairs


def test_templates_that_open_the_thought_themselves(real: Callable[[str], Any]) -> None:
    thinking = Thinking.of("</think>", True, lambda ids: "")
    assert thinking("...<|im_start|>assistant\n<think>\n") == OPENED
    user = [{"role": "user", "content": "Does <think> end?"}]
    for enabled in (True, False):  # Qwen3's opens none, and without thinking closes it again
        prompt = render(real(build.QWEN3), user, enable_thinking=enabled)
        assert thinking(prompt) == TAGS
    assert Thinking.of(None, None, lambda ids: "")("<think>") is None


def test_a_token_that_leaves_no_text_is_refused(lm: Callable[..., NablaLM]) -> None:
    end = lm().pair.policy.end_ids[0]
    with pytest.raises(ConfigError, match="leaves no trace in a response's text"):
        lm(think_end_token=end)


def test_stop_strings_do_not_fire_inside_a_thought(
    lm: Callable[..., NablaLM], ask: Callable[..., Any]
) -> None:
    (whole,) = lm(method="greedy").generate_until([ask()], disable_tqdm=True)
    thought, _, answer = whole.rpartition(";")
    assert "=" in thought and "=" in answer
    model = lm(method="greedy", think_end_token=";", enable_thinking=True)
    (stopped,) = model.generate_until([ask(until=["="])], disable_tqdm=True)
    assert stopped == answer.partition("=")[0]
    assert stopped.stats["generated_tokens"] > len(thought) / 3  # it was not cut in the thought
    (plain,) = lm(method="greedy").generate_until([ask(until=["="])], disable_tqdm=True)
    assert plain == whole.partition("=")[0]


def test_a_truncated_thought_is_no_answer(
    lm: Callable[..., NablaLM], ask: Callable[..., Any]
) -> None:
    model = lm(method="greedy", think_end_token="#", enable_thinking=True)
    (response,) = model.generate_until([ask(max_gen_toks=3)], disable_tqdm=True)
    assert response == "" and response.stats["truncated"]
    assert response.stats["generated_tokens"] == 3
    (grade,) = grade_batch([("5", response)])
    assert grade.reason == "no_answer"


def test_thoughts_do_not_vote() -> None:
    texts = [r"\boxed{5}", r"\boxed{5}", r"5?</think>\boxed{4}"]
    drafts = [Trajectory((), text, 0, "eos", (), (), (), PROBLEM.key) for text in texts]
    for thought, winner in ((None, 0), (OPENED, 2)):
        method = self_consistency(replace(PROBLEM, thought=thought), SelfConsistency(n=3))
        next(method)
        with pytest.raises(StopIteration) as ended:
            method.send(drafts)
        assert ended.value.value.text == texts[winner]


def test_traces_tell_runs_with_other_thoughts_apart() -> None:
    hashes = {problem_hash(replace(PROBLEM, thought=t)) for t in (None, TAGS, OPENED)}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"enable_thinking": True, "think_end_token": "</think>"}, True),
        ({"enable_thinking": False}, False),
        ({"enable_thinking": True, "think_end_token": "x", "reward_thinking": False}, False),
        ({"reward_thinking": True}, True),
    ],
)
def test_the_reward_model_expects_thoughts_where_they_are_enabled(
    options: dict[str, Any], expected: bool
) -> None:
    assert loading._template(arguments.read(options)).thinking == expected
