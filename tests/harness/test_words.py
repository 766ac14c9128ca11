"""The pair that speaks, under lm-eval and in the engine: some of the promises on sentences."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from nabla_eval import embedded, load_pair
from nabla_eval.embedded.words import problems
from nabla_eval.engine import naive
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.harness.lm import NablaLM
from nabla_eval.methods.registry import configure, start
from nabla_eval.protocol import Problem
from nabla_eval.randomness import Key
from nabla_eval.testing import CountingExecutor
from nabla_eval.traces.read import read

TASK = "nabla_words"
METHODS = {
    "nabla": {"n": 3, "temperature": 1.0, "top_p": 1.0, "lr": 0.3, "steps": 3},
    "best_of_n": {"n": 3, "temperature": 1.0},
    "beam": {"beams": 2, "width": 2, "temperature": 1.0},
}


@cache
def pair() -> Any:
    return load_pair("words", dtype="float64", device="cpu")


def asked(count: int = 3) -> list[Problem]:
    texts = [told.prompt for told in problems(count, "test")]
    made = [
        pair().problem(
            pair().policy.encode(text), Key.root(0) / i, max_new_tokens=40,
            messages=[{"role": "user", "content": text}],
        )
        for i, text in enumerate(texts)
    ]  # fmt: skip
    return [replace(problem, id=f"words/{i}") for i, problem in enumerate(made)]


@pytest.mark.parametrize("name", METHODS)
def test_batches_change_nothing_and_the_ledger_is_what_was_asked(name):
    config = configure(name, METHODS[name])
    counting = CountingExecutor(Executor(pair()))
    together = drive_all([start(problem, config) for problem in asked()], counting, 3)
    alone = Executor(pair(), max_batch_tokens=1)
    for problem, outcome in zip(asked(), together, strict=True):
        (other,) = drive_all([start(problem, config)], alone, 1)
        assert other.tokens == outcome.tokens and len(outcome.text.split()) > 5
        own = counting.totals[problem.id]
        assert outcome.ledger.generated_tokens == own.generated_tokens
        assert outcome.ledger.gradient_passes == own.gradient_passes


def test_the_engine_is_the_specification_on_sentences():
    config = configure("nabla", METHODS["nabla"])
    (problem,) = asked(1)
    (fast,) = drive_all([start(problem, config)], Executor(pair()), 1)
    slow = naive.nabla(pair(), problem, config)
    assert fast.tokens == slow.tokens and fast.candidates
    assert [c.verdict for c in fast.candidates] == [c.verdict for c in slow.candidates]
    assert fast.reward == pytest.approx(slow.reward, abs=1e-9)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(evaluate, tmp_path):
    def run(folder: str, **options: Any) -> Any:
        model = NablaLM(
            pair=pair(), method="best_of_n", n=2, seed=0, batch_size=1,
            trace_dir=str(tmp_path / folder), **options,
        )  # fmt: skip
        return evaluate(model, [TASK], limit=2, gen_kwargs={"max_gen_toks": 24})

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("stopped", progress=stop)
    assert len(read(tmp_path / "stopped")) == 1
    on, whole = run("stopped"), run("whole")
    first, second = (
        [sample["resps"] for sample in results["samples"][TASK]] for results in (on, whole)
    )
    assert first == second and len(first) == 2
    assert [r["id"] for r in read(tmp_path / "stopped")] == [
        r["id"] for r in read(tmp_path / "whole")
    ]


def test_the_pair_is_loaded_by_its_name_and_needs_no_template(evaluate, caplog):
    model = NablaLM(pair="words", method="greedy", device="cpu")
    assert model.pair.policy.name == str(embedded.paths("words")[0])
    assert model.pair.policy.dtype == "float32"
    (sample,) = evaluate(model, [TASK], limit=1)["samples"][TASK]
    assert "\\boxed{" in sample["resps"][0][0] and sample["exact_match"] in (0, 1)
    assert "chat_template" not in caplog.text
