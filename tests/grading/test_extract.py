"""Where in a response the answer is, and where none is."""

from __future__ import annotations

import pytest

from nabla_eval.grading import extract

BOXES = [
    (r"so \boxed{42}.", "42"),
    (r"\boxed{1}, wait, it is \boxed{2}", "2"),
    (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{ \text{(C)} }", r"\text{(C)}"),
    (r"\fbox{7}", "7"),
    (r"\boxed 7 is it", "7"),
    (r"\\boxed{7}", "7"),
    (r"\boxed{}", None),
    (r"\boxed{a} and \boxed{b}", "a, b"),
    (r"$\boxed{1}$, $\boxed{2}$ or $\boxed{3}$", "1, 2, 3"),
    (r"\boxed{5}. To repeat: \boxed{5}", "5"),
    (r"\boxed{5} \boxed{5}", "5"),
    (r"$x = \boxed{1}$ and $y = \boxed{2}$", "1, 2"),
    (r"\boxed{3} apples in \boxed{4} bags", "4"),
    (r"\boxed{\boxed{9}}", r"\boxed{9}"),
    (r"I box \boxed{ badly, but now well: \boxed{9}", "9"),
    (r"\boxed{4}. No, \boxed{12", "4"),
    (r"The number is \boxed{12", None),
    (r"Take 3. The number is \boxed{12", "3"),
    (r"\boxed{255}. Final Answer: The final answer is 10455.", "255"),
]

FALLBACKS = [
    ("Add 9 and 9.\n#### 18", "18"),
    ("#### 5\nThe answer is 6", "5"),
    ("The answer is 42.", "42"),
    ("The answer is 42 because 6 times 7 is it, see step 2.", "42"),
    ("**Answer:** 42\n\nI hope this helps with problem 3.", "42"),
    ("Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.", "$\\frac{1}{2}$"),
    ("### Final Answer\n\n42", "42"),
    ("So the answer is (B).", "(B)"),
    ("The answer is B because A is absurd", "B"),
    ("The final answer is 12,000,023. I hope it is correct.", "12,000,023"),
    ("the answer is -3", "-3"),
    ("x = 1 \\text{ or } x = 2", "x = 1 \\text{ or } x = 2"),
    ("(1, 4.5)", "(1, 4.5)"),
    ("-1 + sqrt(3)", "-1 + sqrt(3)"),
    ("28 percent", "28 percent"),
    ("10 weeks", "10 weeks"),
    ("Even", "Even"),
    ("20-14=6;6*7=42;42-3=39", "39"),
    ("20-14=6\n6*7=42\n42-3=39", "39"),
    ("6*7=42", "42"),
    ("7-10=-3", "-3"),
    ("We need $x > 2$ and so $x = 7$ follows", "$x = 7$"),
    ("The value of $x$ is then 5", "5"),
    ("Hence \\(x^2\\) it is", "\\(x^2\\)"),
    ("He pays $10,200 + $255 = $10,455.", "$10,455"),
    ("It rose by 100%.", "100%"),
    ("she is 3/4 of the way", "3/4"),
    ("First compute 6*7.\n42", "42"),
    ("not 10 but 1,000.99€", "1,000.99"),
    ("AZYUK2A", None),
    ("I do not know.", None),
    ("", None),
    ("   \n", None),
    (None, None),
]

THOUGHTS = [
    (r"<think>maybe \boxed{1}</think> It is \boxed{2}", "2"),
    (r"<think>maybe \boxed{1}</think> It is 3.", "3"),
    (r"<think>maybe \boxed{1}", None),
    (r"<think>maybe 7", None),
    (r"maybe \boxed{1}</think>\boxed{2}", "2"),
    (r"<think>a</think>\boxed{2}<think>no, \boxed{3}", "2"),
    (r"<think>\boxed{1}</think>", None),
    (r"<|begin_of_thought|>1<|end_of_thought|>\boxed{2}", "2"),
    (r"<thinking>\boxed{1}", None),
]


@pytest.mark.parametrize(("text", "answer"), [*BOXES, *FALLBACKS, *THOUGHTS])
def test_the_answer_is_found(text: str | None, answer: str | None) -> None:
    assert extract(text) == answer


def test_a_thought_that_the_prompt_opened() -> None:
    assert extract(r"so far \boxed{1}", in_thought=True) is None
    assert extract(r"so far \boxed{1}</think>\boxed{2}", in_thought=True) == "2"
