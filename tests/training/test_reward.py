"""The reward of GRPO is the grading of the evaluation, in both forms that TRL hands over."""

from __future__ import annotations

from pathlib import Path

import model_builders as build
import pytest
import yaml
from scripted_policy import tokenizer_with

from nabla_training.reward import VERIFIERS, reward_function

MATHS = [
    ("1/2", "So it is \\boxed{\\frac{2}{4}}.", 1.0),
    ("1/2", "So it is \\boxed{0.51}.", 0.0),
    ("1/2", "I do not know.", 0.0),
    ("1/2", "", 0.0),
    ("2", "\\boxed{__import__('os').abort()}", 0.0),
]
COUNTDOWN = [
    ("20,14,7=42?", "20-14=6;6*7=42", 1.0),
    ("20,14,7=42?", " 20-14=6;6*7=42\nand so on", 1.0),
    ("20,14,7=42?", "20-14=6;6*7=43", 0.0),
    ("20,14,7=42?", "42", 0.0),
]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(("name", "cases"), [("maths", MATHS), ("countdown", COUNTDOWN)])
def test_rewards_are_the_verdicts_whatever_the_form(
    name: str, cases: list[tuple[str, str, float]], chat: bool
) -> None:
    asked, responses, expected = zip(*cases, strict=True)
    found = reward_function(VERIFIERS[name], build.word_tokenizer())(
        prompts=["?"] * len(cases),
        completions=[
            [{"role": "assistant", "content": text}] if chat else text for text in responses
        ],
        completion_ids=[[0]] * len(cases),
        problem=asked,
        answer=asked,
    )
    assert found == list(expected)


@pytest.mark.parametrize(
    ("name", "file", "column"),
    [("maths", "_math.yaml", "problem"), ("countdown", "nabla_countdown.yaml", "prompt")],
)
def test_training_asks_as_the_tasks_do(name: str, file: str, column: str, root: Path) -> None:
    class Loader(yaml.SafeLoader):
        """Safe YAML in which lm-eval's `!function` tags are text."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: node.value)
    task = yaml.load((root / "tasks" / file).read_text(encoding="utf-8"), Loader=Loader)
    asked = task["doc_to_text"].replace(f"{{{{{column}}}}}", "{problem}")
    assert VERIFIERS[name].prompt == asked


R1 = "{% for m in messages %}{{ m['content'] }}{% endfor %}=<think>\n"
CUT = r"c3\boxed{12}"


@pytest.mark.parametrize("special", [(), ("<think>", "</think>")])
def test_thoughts_earn_nothing(special: tuple[str, ...]) -> None:
    """The prompt opens a thought: only what stands after its end is an answer."""
    words = [*dict.fromkeys([*build.WORDS, *"<>/think\\boxed{}"])]
    tokenizer = tokenizer_with(*special, words=words, chat=R1)
    texts = [CUT, f"3</think>{CUT}", f"{CUT}</think>3"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    asked = [{"role": "user", "content": "1+2"}]
    for prompt in (asked, "1+2=<think>\n"):
        correct = reward_function(VERIFIERS["maths"], tokenizer)
        found = correct(
            prompts=[prompt] * 3,
            completions=[tokenizer.decode(own, skip_special_tokens=True) for own in ids],
            completion_ids=ids,
            problem=["?"] * 3,
            answer=["12"] * 3,
        )
        assert found == [0.0, 1.0, 0.0]
    # Where nothing opens a thought, all of it is the answer.
    plain = tokenizer_with(words=words)
    correct = reward_function(VERIFIERS["maths"], plain)
    options = {"problem": ["?"], "answer": ["12"], "completion_ids": [ids[0]]}
    assert correct(prompts=["1+2="], completions=[CUT], **options) == [1.0]
