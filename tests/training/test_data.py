"""What is trained on: a pure function of seed and problems, and never what is evaluated."""

from __future__ import annotations

import json
import random
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nabla_eval.embedded.countdown import Puzzle, problems, split_of, verify
from nabla_eval.errors import DataError
from nabla_eval.harness import tasks
from nabla_training.data import (
    COUNTDOWN,
    SUBSETS,
    Example,
    Rows,
    identities,
    one_solution,
    open_rows,
    rank,
    select,
)  # fmt: skip
from nabla_training.reward import VERIFIERS

MATHS, DOWN = VERIFIERS["maths"], VERIFIERS["countdown"]
WORDS = st.lists(st.text("abcdefgh", min_size=1, max_size=4), min_size=1, max_size=30, unique=True)


def rows_of(examples: list[Example]) -> Rows:
    return Rows("rows", [example.problem for example in examples], examples.__getitem__)


def listed(problems: list[str]) -> Rows:
    return rows_of([Example(problem, "s", "a") for problem in problems])


def chosen(texts: list[str], **options: Any) -> list[str]:
    examples, _ = select(listed(texts), MATHS, need="solution", **options)
    return [example.problem for example in examples]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str | None, str], list[dict]]:
    """A hub without a network: (path, config, split) -> rows."""
    held: dict[tuple[str, str | None, str], list[dict]] = {}

    def load(path: str, config: str | None, *, split: str) -> Any:
        if (path, config, split) not in held:
            raise FileNotFoundError(f"Couldn't find {path!r}.")
        return datasets.Dataset.from_list(held[path, config, split])

    monkeypatch.setattr(datasets, "load_dataset", load)
    return held


# --- subsampling ----------------------------------------------------------------------------------


@given(WORDS, st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_choice_depends_on_seed_and_problems_only(
    words: list[str], seed: int, shuffler: random.Random
) -> None:
    shuffled = [*words, *shuffler.choices(words, k=3)]  # another order, and duplicates
    shuffler.shuffle(shuffled)
    whole = chosen(words, seed=seed)
    assert sorted(whole) == sorted(words)
    assert chosen(shuffled, seed=seed) == whole
    for size in range(1, len(words)):
        assert chosen(shuffled, seed=seed, size=size) == whole[:size]
    few = words[::2]  # keep their places among others when more are added
    assert [word for word in whole if word in few] == chosen(few, seed=seed)


def test_seeds_choose_differently_and_evenly() -> None:
    """Of 40 problems 10 are chosen by each of 400 seeds: 100 times each in the mean.

    The counts' sum of squares over their variance, 75, is chi-square with 39 degrees of freedom
    (times 39/40): above 90.5 with probability 6e-6.
    """
    words = [f"problem {i}" for i in range(40)]
    counts = dict.fromkeys(words, 0)
    for seed in range(400):
        for word in rank(words, seed)[:10]:
            counts[word] += 1
    assert sum((count - 100) ** 2 for count in counts.values()) / 75 < 90.5


def test_what_is_left_out_is_counted_and_the_next_one_is_taken() -> None:
    rows = rows_of([Example(f"p{i}", None if i % 3 == 0 else "s" * i, "a") for i in range(30)] * 2)
    examples, facts = select(
        rows,
        MATHS,
        need="solution",
        size=10,
        evaluated=frozenset({"p1", "p2"}),
        fits=lambda example: len(example.solution or "") < 25,
    )
    assert len(examples) == facts["problems"] == 10
    assert (facts["read"], facts["duplicates"], facts["evaluated"]) == (60, 28, 4)
    order = [place for place in rank([f"p{i}" for i in range(30)], 0) if place not in ("p1", "p2")]
    good = [p for p in order if int(p[1:]) % 3 and int(p[1:]) < 25]
    assert [example.problem for example in examples] == good[:10]
    seen = order[: order.index(good[9])]
    assert facts["unusable"] == sum(int(p[1:]) % 3 == 0 for p in seen)
    assert facts["unusable"] + facts["too_long"] == len(seen) - 9


@pytest.mark.parametrize(
    ("words", "size", "what"),
    [
        (["a"], None, "leaves 0 problems to train on, and at least 1 are asked for"),
        (["a", "b", "B"], 4, "leaves 1 problems .* and 4 are .*1 are evaluated, 1 are duplicates"),
    ],
)
def test_too_few_problems_are_an_error_with_the_reasons(
    words: list[str], size: int | None, what: str
) -> None:
    with pytest.raises(DataError, match=what):
        select(listed(words), MATHS, need="answer", size=size, evaluated=frozenset({"a"}))


# --- evaluation problems are not trained on -------------------------------------------------------


@pytest.mark.parametrize(
    "spelling",
    [
        "What is $\\frac{1}{2} + 3$?",
        "what is \\( \\frac{1}{2}+3 \\)",
        "  What  is $\\dfrac{1}{2}\\, +\\ 3$ ?\n",
        "What is\u00a0$$\\displaystyle \\tfrac{1}{2} + 3$$.",
    ],
)
def test_spellings_of_an_evaluated_problem_are_found(jsonl: Any, spelling: str) -> None:
    name = jsonl([{"problem": "What is $\\frac{1}{2} + 3$?", "answer": "7/2"}])
    evaluated = identities([name], MATHS)
    assert chosen([spelling, "other"], evaluated=evaluated) == ["other"]


@pytest.mark.parametrize(
    "other", ["What is 3-4?", "What is 3+4.5?", "What is 3+45?", "what is (3+4)!?", "What is 34?"]
)
def test_other_problems_are_not_taken_for_the_same(other: str) -> None:
    assert MATHS.identity(other) != MATHS.identity("What is 3+4?")


def test_countdown_trains_on_no_problem_of_the_task() -> None:
    """A problem's split is a hash of its sorted numbers and target: of the two sets, no problem
    can be in both, in whatever order a prompt lists the numbers."""
    documents = tasks.countdown(countdown_numbers=3)["test"]
    tested = {Puzzle.from_prompt(document["prompt"]).canonical for document in documents}
    assert len(tested) == tasks.EMBEDDED_PROBLEMS >= 500
    assert {split_of(canonical + "?") for canonical in tested} == {"test"}
    for name, size, seed in (("countdown", 300, 0), ("countdown", 300, 1), ("countdown4", 10, 0)):
        assert COUNTDOWN[name] == len(open_rows(name, size=1).example(0).problem.split(","))
        examples, _ = select(
            open_rows(name, size=size, seed=seed), DOWN, need="solution", seed=seed
        )
        trained = {DOWN.identity(example.problem) for example in examples}
        assert len(trained) == size and trained.isdisjoint(tested)
        assert {split_of(canonical + "?") for canonical in trained} == {"train"}


def test_held_out_countdown_problems_of_a_file_are_left_out(jsonl: Any) -> None:
    held_out = problems(5, "test") + problems(5, "validation")
    rows = [{"prompt": p.prompt, "answer": p.target} for p in [*problems(5, "train"), *held_out]]
    examples, facts = select(open_rows(jsonl(rows)), DOWN, need="answer")
    assert facts["held_out"] == 10
    assert all(split_of(example.problem) == "train" for example in examples)
    with pytest.raises(DataError, match="10 are held out"):
        select(open_rows(jsonl(rows[5:])), DOWN, need="answer")


def test_a_row_that_is_no_problem_is_named() -> None:
    with pytest.raises(DataError, match=r"rows, row 2: .*'20,14,7=42\?'.*got 'nonsense'"):
        select(listed(["20,14,7=42?", "nonsense"]), DOWN, need="answer")
    with pytest.raises(DataError, match=r"rows, row 1: .*no problem"):
        select(listed(["$ $"]), MATHS, need="answer")


# --- rows -----------------------------------------------------------------------------------------


def test_solutions_of_countdown_are_right_and_spelt_as_the_policy_was_taught() -> None:
    for problem in problems(200, "train") + problems(50, "train", numbers=4):
        solution = one_solution(problem)
        assert verify(problem, solution) and solution == one_solution(problem)
        previous = None
        for step in solution.split(";"):
            left, operator, rest = next(step.partition(sign) for sign in "+-*/" if sign in step)
            right, _, result = rest.partition("=")
            if operator in "+*" and left != previous:
                assert previous != right and int(left) >= int(right)
            previous = result
    many = {one_solution(Puzzle((2, 3, 4), 24), seed) for seed in range(20)}
    assert many == {"3*2=6;6*4=24", "4*2=8;8*3=24", "4*3=12;12*2=24"}
    with pytest.raises(DataError, match="no solution"):
        one_solution(Puzzle((1, 1, 1), 99))


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"problem": "p", "answer": 42}, "42"),
        ({"prompt": "p", "solution": "So it is $\\boxed{\\frac{1}{2}}$."}, "\\frac{1}{2}"),
        ({"question": "p", "answer": "2+2 is 4.\n#### 4"}, "4"),
        ({"problem": "p", "solution": "It is beautiful."}, None),
        ({"problem": "p", "answer": True, "solution": "The answer is 7."}, "7"),
    ],
)
def test_rows_are_read_by_the_names_in_use(jsonl: Any, row: dict, answer: str | None) -> None:
    separated = {**row, "note": "\u2028"}  # which ends no line
    example = open_rows(jsonl([json.dumps(separated, ensure_ascii=False), ""])).example(0)
    assert (example.problem, example.answer) == ("p", answer)
    if "####" in str(row.get("answer")):
        assert example.solution == row["answer"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"problem": "p"', "line 2: Expecting"),
        ("[1, 2]", "line 2: is a list"),
        ('{"text": "p"}', "line 2: has none of the keys problem, prompt, question.*'text'"),
        ('{"problem": "  "}', "line 2: has none"),
    ],
)
def test_a_bad_line_is_named(jsonl: Any, line: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        open_rows(jsonl(['{"problem": "p", "answer": "1"}', line]))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("numinamath35k", "Did you mean numinamath-35k"),
        ("absent.jsonl", "Cannot read .*absent.jsonl"),
        ("some/data", r"Cannot load the data set some/data \(split train"),
    ],
)
def test_names_that_are_nothing_get_an_offer(hub: dict, name: str, what: str) -> None:
    with pytest.raises(DataError, match=what):
        open_rows(name)


# --- the paper's subsets --------------------------------------------------------------------------


def test_open_thoughts_is_its_mathematics_with_or_without_the_thought(hub: dict) -> None:
    sizes = [subset.keywords["size"] for subset in SUBSETS.values()]
    assert sizes == [10_000, 10_000, 35_000]  # the paper's
    hub["open-thoughts/OpenThoughts-114k", "metadata", "train"] = [
        {
            "problem": f"problem {i}",
            "deepseek_reasoning": f"thinking {i}",
            "deepseek_solution": f"It is \\boxed{{{i}}}.",
            "domain": "math" if i % 2 else "code",
        }
        for i in range(20)
    ]
    long, short = (
        select(open_rows(f"open-thoughts-10k{end}"), MATHS, need="solution", size=6)
        for end in ("", "-solutions")
    )
    assert long[1]["read"] == 10 and long[1]["fingerprint"] == short[1]["fingerprint"]
    for with_thought, without in zip(long[0], short[0], strict=True):
        number = with_thought.problem.removeprefix("problem ")
        assert int(number) % 2
        assert without == Example(f"problem {number}", f"It is \\boxed{{{number}}}.", number)
        assert with_thought.answer == number
        assert (
            with_thought.solution == f"<think>\nthinking {number}\n</think>\n\n{without.solution}"
        )
    with pytest.raises(DataError, match=r"leaves 10 problems.*10,000 are asked for"):
        select(open_rows("open-thoughts-10k"), MATHS, need="solution")


def test_numinamath_takes_answers_out_of_its_solutions(hub: dict) -> None:
    hub["AI-MO/NuminaMath-CoT", None, "train"] = [
        {"source": "s", "problem": "a", "solution": "Thus \\boxed{5}.", "messages": []},
        {"source": "s", "problem": "b", "solution": "Which was to be shown.", "messages": []},
    ]
    examples, _ = select(open_rows("numinamath-35k"), MATHS, need="answer", size=1)
    assert examples == [Example("a", "Thus \\boxed{5}.", "5")]


def test_other_data_of_the_hub_and_folders_are_read_by_the_same_names(
    hub: dict, tmp_path: Any
) -> None:
    hub["some/data", None, "test"] = [{"text": "p"}]
    with pytest.raises(DataError, match="none of the columns problem, prompt, question, but text"):
        open_rows("some/data", split="test")
    hub[str(tmp_path), None, "train"] = [{"question": "p", "answer": "3"}]
    rows = open_rows(str(tmp_path))
    assert rows.size is None and rows.example(0) == Example("p", None, "3")
