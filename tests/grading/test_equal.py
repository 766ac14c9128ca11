"""What counts as equal, and above all what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nabla_eval.grading import cluster, equal, grade, grade_batch

EQUAL = [
    ("025", "25"),
    ("25", "025"),
    ("3159", "3,159"),
    ("-1", "-1"),
    ("-1", "−1"),
    ("2", "2.0"),
    (r"\frac{1}{2}", r"\dfrac{1}{2}"),
    (r"\frac12", "1/2"),
    (r"\frac{1}{2}", "0.5"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"-\frac{1}{2}", r"\frac{1}{-2}"),
    (r"1\frac{1}{2}", r"\frac32"),
    (r"1\frac{1}{2}", "1 1/2"),
    (r"\left(3, \frac{\pi}{2}\right)", r"(3,\pi/2)"),
    ("(3,4)", r"\left( 3,\,4 \right)"),
    (r"[0,\infty)", r"[0, +\infty)"),
    (r"[0,\infty)", r"x \ge 0"),
    (r"x\ge 0", r"[0,\infty)"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty,2)\cup(3,\infty)"),
    (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)"),
    (r"\{1,2,3\}", r"\{3,2,1\}"),
    (r"\{1,2,3\}", "1,2,3"),
    (r"10\%", "10"),
    ("10", r"10\%"),
    (r"10\%", "10 percent"),
    (r"90^\circ", "90"),
    (r"90^\circ", "90 degrees"),
    ("90", "90°"),
    (r"\$70{,}000", "70000"),
    ("70,000", r"\$70{,}000"),
    ("70,000", "70000.00"),
    ("70,000", "$70,000"),
    ("70,000", r"\$70,000"),
    ("70,000", "70,000 dollars"),
    ("1{,}000{,}000", "1000000"),
    ("5", "x=5"),
    ("5", "x = 5"),
    ("5", r"x\,=\,5."),
    (r"\text{(B)}", "B"),
    ("B", r"\textbf{(B)}"),
    ("B", "b"),
    (r"\text{Monday}", "Monday"),
    (r"1 \pm \sqrt{2}", r"1+\sqrt2, 1-\sqrt2"),
    (r"1 \pm \sqrt{2}", r"1-\sqrt{2},\ 1+\sqrt{2}"),
    (r"\pm 3", "3, -3"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt{2}}"),
    ("x^2-1", "(x-1)(x+1)"),
    ("e^{2}", "e^2"),
    (r"2\pi", r"2 \pi"),
    (r"2\pi", "2π"),
    (r"2\pi", r"\pi \cdot 2"),
    (r"\binom{10}{3}", "120"),
    ("5!", "120"),
    ("2^{10}", "1024"),
    (r"3 \cdot 10^5", "300000"),
    (r"6.02 \times 10^{23}", "6.02e23"),
    (r"\log_2 8", "3"),
    (r"\frac{a}{b}", "a/b"),
    (r"\frac{3}{4}\pi", r"\frac{3\pi}{4}"),
    ("x=2, y=3", "y=3, x=2"),
    ("(2,3)", "x=2, y=3"),
    (r"15 \text{ cm}^2", "15"),
    (r"15 \text{ cm}^2", r"15 \text{ square centimeters}"),
    (r"\frac{1}{3}", "0.333333"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}"),
    (r"\begin{pmatrix} 1/2 \\ 2 \end{pmatrix}", r"\begin{bmatrix} 0.5 \\ 2 \end{bmatrix}"),
    ("y = 2x+1", "2x - y + 1 = 0"),
    ("y=2x+1", "y = 1 + 2x"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}"),
    ("3R^2", "3 R^2"),
    ("p - q", "-q+p"),
    ("6 - 5i", "-5i+6"),
    ("4210_{7}", "4210_7"),
    ("i", "i"),
    (r"\emptyset", r"\varnothing"),
    ("1,-2", "-2,1"),
    ("1, -2", r"\{-2, 1\}"),
    (r"1-2\sin^2 x", r"\cos 2x"),
    ("a+b+c", "c+a+b"),
    (r"\text{even}", "Even"),
    (r"\frac{3}{2}", r"\frac{3}{2} \text{ cups}"),
    (r"\text{no solution}", "No solution"),
    (r"11\sqrt2", r"11\sqrt{2}\text{ units}"),
    ("13535", "13{,}535"),
    (r"\frac{1}{\sqrt[3]{2}}", "2^{-1/3}"),
    ("0", "0.0"),
    ("-0", "0"),
    (r"(5,\infty)", "x > 5"),
    ("2k+2", "2(k+1)"),
    (r"\$32,\!348", "32348"),
    (r"\dfrac{17}{50}", r"\frac{17}{50}"),
    (r"x \in [-2,7]", "[-2,7]"),
    ("3,5,7", "3, 5, 7"),
    ("3,5,7", "3; 5 ; 7"),
    ("3,5,7", "3, 5, and 7"),
    ("100,200", "100, 200"),
    ("f(x)=x^2", "x^2"),
    (r"\sqrt{2}", "1.41421356"),
    (r"8\text{ m/s}", "8 m/s"),
    ("12:30", "12:30"),
    ("2:3", "2 : 3"),
    (r"\overline{AB}=5", "5"),
    (r"10 \text{ hours}", "10 hrs"),
    (r"(\frac{1}{2}, 3]", "(0.5,3]"),
]

UNEQUAL = [
    ("70,000", "-10,000"),
    ("5", "-5"),
    ("1", r"\pm 1"),
    (r"\pm 1", "1"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("[1,2)", "(1,2)"),
    ("(1,2)", r"\{2,1\}"),
    ("1,2", "1,2,3"),
    ("1,2,3", "1,2"),
    (r"\{1,2\}", r"\{1\}"),
    ("2", "1 or 2"),
    ("2", "1, 2"),
    ("10", "10 million"),
    ("10", "10^6"),
    ("25", "2.5"),
    ("0.5", "50"),
    ("50", "0.5"),
    ("x=5", "y=5"),
    ("5", "x^2=5"),
    ("81", "(x+y)^2=81"),
    ("|x|", "x"),
    ("x", r"\sqrt{x^2}"),
    ("204_5", "204"),
    ("204_5", "204_6"),
    ("204", "204_5"),
    ("0.0000001", "0.0000002"),
    (r"1.6\times10^{-19}", r"1.7\times10^{-19}"),
    ("10^{-7}", r"2\cdot10^{-7}"),
    ("x^2+1=0", "x^2+2=0"),
    ("x+10^{-20}", "x"),
    (r"\frac13", "0.33"),
    (r"\frac13", "0.3333"),
    (r"\pi", "3.14"),
    (r"\pi", "3.1416"),
    (r"\frac{22}{7}", r"\pi"),
    ("100000000000", "99999999999"),
    ("3^{2025}", "2^{2025}"),
    ("even", "odd"),
    ("odd", "ddo"),
    (r"\text{yes}", r"\text{no}"),
    ("A", "B"),
    ("A,C", "A"),
    ("A,C", "A,B"),
    ("1,234", "1,2,34"),
    ("12:00", "1:00"),
    ("2:3", "3:2"),
    (r"10\text{ cm}", r"10\text{ m}"),
    (r"\$10", "10 cents"),
    ("10 hours", "10 minutes"),
    (r"90^\circ", r"90\text{ radians}"),
    (r"90^\circ C", r"90^\circ F"),
    ("x<1", "x>1"),
    ("x<1", r"x\le 1"),
    (r"x \ge 2", r"(2,\infty)"),
    (r"(2,\infty)", r"[2,\infty)"),
    ("5", "5x"),
    ("5", r"\sqrt{5}"),
    ("5", "5!"),
    ("5", r"5^\prime"),
    ("12", "1 2"),
    ("12", r"1\ 2"),
    ("112", "11/2"),
    (r"1\frac12", r"\frac{1}{2}"),
    (r"1\frac12", "11/2"),
    (r"2\frac{5}{3}", r"\frac{11}{3}"),
    (r"\frac{1}{2}", r"\frac{2}{1}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    ("p=5,q=2,p=7,q=3", "p=5,q=3,p=7,q=2"),
    ("x=2, y=3", "x=3, y=2"),
    ("x=2, y=3", "3, 2"),
    (r"\infty", r"-\infty"),
    (r"\infty", "1"),
    (r"\text{undefined}", "0"),
    ("0", r"\emptyset"),
    ("0", r"\text{none}"),
    ("0", ""),
    ("", "0"),
    ("2^{1/2^{1000}}", "1"),
    ("1+10^{-200}", "1"),
    ("i", "-i"),
    ("3+4i", "3-4i"),
    ("e", "2.718"),
    ("e", r"\pi"),
    ("2x+3", "2y+3"),
    ("2x+3", "2x-3"),
    ("7=11a+c", "11a+c"),
    ("sin(x)=1/2", "cos(x)=1/2"),
    (r"\frac{1}{x}", r"\frac{1}{y}"),
    ("x_1", "x_2"),
    ("n!", "n"),
    ("a^b", "b^a"),
    ("abc", "abd"),
    ("10%", "1000"),
    ("0.1", "10"),
    ("5", "5.0000004"),
    ("5", "4.9999999"),
    ("42", "42, 43"),
    ("42", "420"),
    ("42", "4 2"),
    ("42", r"43 \approx 42"),
    ("42", r"42 \pm 1"),
    ("42", r"\text{not } 42"),
    ("42", "not 42"),
    ("42", "42 or more"),
    ("42", "at least 42"),
    ("42", ">42"),
    ("42", "x > 42"),
    ("42", r"\neq 42"),
    ("42", r"x \neq 42"),
    ("-2,1", "2,-1"),
    (r"\frac{-1}{2}", r"\frac12"),
    (r"6\text{ and }8", "6"),
    (r"\text{(A) and (B)}", "A"),
    (r"2\sqrt{2}", r"2+\sqrt{2}"),
    (r"\log 8", r"\log_2 8"),
    (r"\sin 90", r"\sin 90^\circ"),
    (r"5 \mod 7", "5"),
    (r"\lfloor x \rfloor", "x"),
    ("x", r"\lceil x \rceil"),
    (r"\overline{x}", "x"),
    (r"\bar{x}", "x"),
    (r"0.\overline{3}", "0.3"),
    (r"0.\overline{3}", "0"),
    ("0.3", r"0.\overline{3}"),
    (r"1.\bar{6}", "1.6"),
    ("x'", "x"),
    (r"\frac{d}{dx} x^2", "x^2"),
    (r"\vec{a}", "a"),
    (r"5\text{ thousand}", "5"),
    ("1/2/3", "1/(2/3)"),
    ("3!!", "720"),
    (r"\sum_{k=1}^{3} k", "5"),
    (r"\det A", "A"),
    ("6", r"\frac{6}{}"),
    ("6", "6/0"),
    ("1", r"\frac{0}{0}"),
    ("1", r"1^{\infty}"),
    ("2^3^2", "64"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal(gold: str, answer: str) -> None:
    result = grade(gold, answer, extracted=True)
    assert result.equal, result
    assert not result.reason


@pytest.mark.parametrize(("gold", "answer"), UNEQUAL)
def test_unequal(gold: str, answer: str) -> None:
    result = grade(gold, answer, extracted=True)
    assert not result.equal
    assert not result.timed_out, "decided by its deadline, which proves nothing"


@pytest.mark.parametrize("answer", ["70,000", "70000", r"\$70{,}000", "70000.00"])
def test_worked_example_of_gsm8k(answer: str) -> None:
    """arXiv 2603.04948, appendix D.3: the profit is 70,000; -10,000 is the rejected answer."""
    assert equal("70,000", answer)
    assert not equal(answer, "-10,000")
    assert grade("70,000", rf"The profit is $\boxed{{{answer}}}$.").equal
    assert not grade("70,000", r"He lost money: \boxed{-10,000}").equal


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_are_equal_when_their_values_are(a: int, b: int) -> None:
    assert equal(f"{a:,}", str(a))
    assert equal(str(a), f"0{a}" if a >= 0 else f"-0{-a}")
    assert equal(str(a), str(b)) == (a == b)


@given(st.integers(-999, 999), st.integers(1, 99), st.integers(-999, 999), st.integers(1, 99))
def test_fractions_are_equal_when_their_values_are(a: int, b: int, c: int, d: int) -> None:
    assert equal(f"{a}/{b}", rf"\dfrac{{{c}}}{{{d}}}") == (a * d == b * c)


def test_cluster_groups_equal_answers() -> None:
    answers = ["1/2", "0.5", None, "x+1", r"\frac12", "1+x", " ", "7", "7.0", "\\text{seven}"]
    assert cluster(answers) == [0, 0, -1, 1, 0, 1, -1, 2, 2, 3]
    assert cluster([]) == []


def test_batch_equals_one_by_one() -> None:
    pairs = [("x+1", "1+x"), ("7", r"\boxed{8}"), ("7", None), (r"\sqrt{8}", r"$2\sqrt{2}$")]
    assert grade_batch(pairs) == [grade(gold, text) for gold, text in pairs]


def test_reasons() -> None:
    assert grade("7", None).reason == "no_answer"
    assert grade("7", "I do not know.").reason == "no_answer"
    assert grade("7", "<think>it is 7").reason == "no_answer"
    assert grade("7", "7" * 5000).reason == "too_long"
    assert grade("7", "8").reason == ""


def test_gold_may_be_a_whole_solution() -> None:
    assert grade("She sells 3 * 6 = 18.\n#### 18", "The answer is 18.").equal
    assert grade(r"Since $x<2$ we get $\boxed{2-2p}$.", "$-2p+2$").equal
