"""The verifier, the search and the split, against an independent enumeration of all solutions."""

from __future__ import annotations

from collections import Counter

import pytest
from countdown_solutions import every_calculation, problems_with_text, small_numbers, solutions
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from nabla_eval.embedded import countdown
from nabla_eval.embedded.countdown import Puzzle
from nabla_eval.errors import ConfigError


@given(problems_with_text())
def test_verify_accepts_exactly_the_enumerated_solutions(case: tuple[Puzzle, str]) -> None:
    problem, text = case
    assert countdown.verify(problem, text) == (text in solutions(problem))


def test_verify_accepts_the_example_of_the_model_card_in_white_space() -> None:
    for response in ("20-14=6;6*7=42;42-3=39", " 20-14=6;7*6=42;42-3=39\n"):
        assert countdown.verify("20,14,7,3=39?", response)


@pytest.mark.parametrize(
    "response",
    [
        "",
        "39",
        "20-14=6;6*7=42;42-3=39;",
        "20-14=6;6*7=42;42-3=40",  # false
        "20-14=6;6*7=42;42-2=40",  # 2 was not given
        "20-14=6;6*7=42",  # 3 is not used
        "20-14=6;6*7=42;42-3=39;39*1=39",
        "20-14=6;6*6=36;36+3=39",  # 6 used twice
        "20-14=06;6*7=42;42-3=39",
        "20-14=6;6*7=42;42-3=39 or so",
        "20 - 14=6;6*7=42;42-3=39",
        "20-14=6;6*7=42;42-3=\uff13\uff19",  # full-width digits
        "__import__('os').abort()",
        "9**9**9**9=39",
        "7+3=10;14-10=4;20+4=24",  # right, but not the target
    ],
)
def test_verify_rejects(response: str) -> None:
    assert not countdown.verify("20,14,7,3=39?", response)
    assert not countdown.verify("20,20,1,5=5?", "20-20=0;0*1=0;0+5=5")  # results are 1 to 99
    assert not countdown.verify("20,20,4=99?", "20*20=400;400/4=100")


@given(st.text())
def test_verify_answers_any_text(text: str) -> None:
    assert countdown.verify(Puzzle((2, 3), 5), text) == (text.strip() in {"2+3=5", "3+2=5"})


@given(small_numbers, st.integers(1, 99))
def test_search_agrees_with_enumeration(numbers: tuple[int, ...], target: int) -> None:
    problem = Puzzle(numbers, target)
    assert countdown.solvable(problem) == bool(solutions(problem))


@given(st.lists(st.integers(1, 20), min_size=4, max_size=4).map(tuple))
def test_reachable_values_of_four_numbers(numbers: tuple[int, ...]) -> None:
    expected = {result for _, result in every_calculation(tuple(sorted(numbers)))}
    assert countdown.reachable(tuple(sorted(numbers))) == expected


# --- problems and splits ------------------------------------------------------------------------


def test_prompt_round_trip_and_errors() -> None:
    problem = Puzzle((20, 14, 7, 3), 39)
    assert Puzzle.from_prompt(problem.prompt) == problem
    assert problem.canonical == Puzzle((3, 20, 7, 14), 39).canonical
    for prompt in ("", "1,2=3", "1, 2=3?", "01,2=3?", "1,2=100?", "a=b?"):
        with pytest.raises(ConfigError, match="looks like"):
            Puzzle.from_prompt(prompt)


@pytest.mark.parametrize("numbers", [3, 4])
def test_test_problems_are_many_distinct_and_solvable(numbers: int) -> None:
    documents = countdown.test_problems(1600, numbers=numbers)
    seen = set()
    for document in documents:
        problem = countdown.as_problem(document)
        seen.add(problem.canonical)
        assert document["prompt"] == problem.prompt
        assert len(problem.numbers) == numbers
        assert all(1 <= n <= countdown.largest_input(numbers) for n in problem.numbers)
        assert 10 <= problem.target <= 99 and problem.target not in problem.numbers
        assert countdown.solvable(problem)
        assert countdown.split_of(problem) == "test"
    assert len(seen) == 1600


@pytest.mark.parametrize("numbers", [3, 4])
def test_test_problems_are_kept_and_not_drawn(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run loads 1200 of them, which took 416,000 draws; here the first 400 are drawn."""
    drawn = [p.prompt for p in countdown.problems(400, "test", numbers=numbers)]
    monkeypatch.delattr(countdown, "_draw")
    kept = [document["prompt"] for document in countdown.test_problems(1600, numbers=numbers)]
    assert kept[:400] == drawn and len(set(kept)) == 1600
    with pytest.raises(NameError):
        countdown.test_problems(2, numbers=numbers, seed=1)


def test_splits_are_disjoint_whatever_the_order_of_the_numbers() -> None:
    drawn = {
        split: {p.canonical for p in countdown.problems(300, split)}
        for split in ("train", "validation", "test")
    }
    assert len(set.union(*drawn.values())) == 900
    for split, members in drawn.items():
        for canonical in members:
            problem = Puzzle.from_prompt(f"{canonical}?")
            turned = Puzzle(problem.numbers[::-1], problem.target)
            assert countdown.split_of(turned) == countdown.split_of(problem) == split


def test_problems_are_deterministic_and_extend_each_other() -> None:
    few, many = countdown.problems(20, "test"), countdown.problems(60, "test")
    assert many[:20] == few
    assert countdown.problems(20, "test", seed=1) != few
    # The published accuracies refer to these problems: this line may not change.
    assert [problem.prompt for problem in few[:2]] == ["4,24,19=52?", "2,4,25=46?"]
    harder = [problem.prompt for problem in countdown.problems(2, "test", numbers=4)]
    assert harder == ["17,10,15,6=80?", "6,18,18,17=25?"]


def test_prompt_order_is_shuffled_and_belongs_to_the_problem() -> None:
    drawn = countdown.problems(200, "test", numbers=4)
    ordered = sum(problem.numbers == tuple(sorted(problem.numbers)) for problem in drawn)
    # Sorted by chance in 1/24 of the cases (somewhat more with equal numbers): 30 of 200 has
    # probability below 1e-7 even at 1/16.
    assert ordered < 30
    assert drawn[:50] == countdown.problems(50, "test", numbers=4)


def test_multisets_are_drawn_uniformly() -> None:
    """Chi-square over all multisets of 2 numbers; fails by chance with probability 1e-6."""
    import random

    rng = random.Random(1)
    draws, multisets = 46_500, 465  # 30 * 31 / 2
    counts = Counter(countdown._draw(rng, 2).numbers for _ in range(draws))
    expected = draws / multisets
    statistic = sum((counts[pair] - expected) ** 2 / expected for pair in counts)
    assert len(counts) == multisets and all(1 <= a <= b <= 30 for a, b in counts)
    assert statistic < chi2.ppf(1 - 1e-6, df=multisets - 1)


def test_asking_for_too_many_problems_says_how_many_there_are() -> None:
    with pytest.raises(ConfigError, match=r"has about \d+ problems"):
        countdown.problems(100_000, "test", numbers=2)
    with pytest.raises(ConfigError, match="at least 2 numbers"):
        countdown.problems(1, "test", numbers=1)
