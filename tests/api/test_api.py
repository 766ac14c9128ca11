"""The Python API on the embedded and on a tiny pair."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import nabla_eval as ne
from nabla_eval.engine import naive
from nabla_eval.errors import ConfigError, ContextError
from nabla_eval.randomness import Key
from nabla_eval.testing import tiny_pair

PAIR = tiny_pair(seed=6)
PROMPT, RESPONSE = [2, 5, 3], [4, 7, 2, 9, 3, 1]


@pytest.fixture(scope="module")
def embedded():
    return ne.load_pair(dtype="float64")


def test_generate_on_the_embedded_pair(embedded):
    out = ne.generate(embedded, "20,14,7,3=39?", method="nabla", n=8, seed=0)
    assert isinstance(out.text, str) and len(out.token_ids) >= 1
    assert out.stats["model_calls"] > 0 and out.stats["seconds"] > 0
    assert out.trace.drafts and out.trace.tokens == out.token_ids
    assert (
        ne.generate(embedded, "20,14,7,3=39?", method="nabla", n=8, seed=0).token_ids
        == out.token_ids
    )


def test_an_answer_shows_itself_in_a_notebook_and_in_a_terminal(embedded):
    out = ne.generate(embedded, "20,14,7=42?", method="nabla", n=8, seed=2)
    assert (
        repr(out)
        == f"<Generation by nabla: {out.text!r}, {out.stats['model_calls']:.0f} model calls>"
    )
    accepted = [c for c in out.record["candidates"] if c["verdict"] == "accepted"]
    assert accepted and all(f"⟦{c['new_text']}⟧" in str(out) for c in accepted[-1:])
    (token,) = re.findall(r'class="token revised"[^>]*>(.*?)<sup>', out._repr_html_())
    assert token == accepted[-1]["new_text"]
    assert out.record["profiles"]["final"]["tokens"] and "certified" in out.record["outcome"]
    assert ne.story(out.record).final is not None


def test_a_list_of_problems_gives_a_list_and_each_answer_its_own(embedded):
    texts = ["20,14,7,3=39?", "1,2,3,4=24?", "20,14,7,3=39?"]
    answers = ne.generate(embedded, texts, method="best_of_n", n=3, temperature=1.0)
    alone = [
        ne.generate(embedded, text, method="best_of_n", n=3, temperature=1.0) for text in texts[:2]
    ]
    assert [a.token_ids for a in answers[:2]] == [a.token_ids for a in alone]
    # The same problem again is another repeat, with other draws.
    assert [d.tokens for d in answers[2].trace.drafts] != [
        d.tokens for d in answers[0].trace.drafts
    ]


def test_bad_calls_are_explained(embedded):
    with pytest.raises(ConfigError, match="steps"):
        ne.generate(embedded, "1,2,3,4=24?", stepz=3)
    with pytest.raises(ContextError, match="max_new_tokens"):
        ne.generate(embedded, "1,2,3,4=24?", max_new_tokens=10**6)
    with pytest.raises(ConfigError, match="committed"):
        ne.refine(PAIR, PROMPT, RESPONSE, committed=6)
    with pytest.raises(ContextError):
        ne.refine(PAIR, PROMPT, RESPONSE * 100)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"problem": [None, "a"]}, "problem must be a list of texts, got None in it"),
        ({"problem": None}, "problem must be a list of texts, got None"),
        ({"problem": ["\ud800"]}, "problem must be a list of texts"),
        ({"stop": [None]}, "stop must be a list of texts, got None in it"),
        ({"stop": 3}, "stop must be a list of texts, got 3"),
        ({"seed": "x"}, "seed must be an integer, got 'x'. Try seed=0."),
        ({"seed": 1.5}, "seed must be an integer, got 1.5"),
        ({"max_new_tokens": "x"}, "max_new_tokens must be an integer or none, got 'x'"),
        ({"method": None}, "method must be a string, got None. Try method=nabla."),
    ],
    ids=str,
)
def test_what_is_no_question_is_refused_before_anything_runs(call, words, monkeypatch):
    monkeypatch.setattr(ne.api, "drive", None)
    with pytest.raises(ConfigError, match=re.escape(words)):
        ne.generate(PAIR, **{"problem": "ab", "n": 2, **call})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"prompt_ids": ["a"]}, "prompt_ids must be token ids below 11, got 'a'"),
        ({"response_ids": [4, 11]}, "response_ids must be token ids below 11, got 11"),
        ({"response_ids": [-1]}, "response_ids must be token ids below 11, got -1"),
        ({"response_ids": None}, "response_ids must be token ids below 11, got None"),
        ({"committed": None}, "committed must be an integer, got None"),
        ({"temperature": 0}, "temperature must be a number in [1e-09, 1e+09], got 0"),
        ({"temperature": "x"}, "temperature must be a number in [1e-09, 1e+09], got 'x'"),
        ({"lr": "x"}, "lr must be a number > 0, got 'x'"),
        ({"end_token": "x"}, "end_token must be template or kept, got 'x'"),
        ({"seed": None}, "seed must be an integer, got None"),
    ],
    ids=str,
)
def test_what_cannot_be_refined_is_refused_before_anything_runs(call, words, monkeypatch):
    monkeypatch.setattr(ne.api, "teacher_force", None)
    with pytest.raises(ConfigError, match=re.escape(words)):
        ne.refine(PAIR, **{"prompt_ids": PROMPT, "response_ids": RESPONSE, **call})


def test_a_stop_is_one_text_or_several_and_numbers_may_be_numpys(embedded):
    text = ne.generate(embedded, "20,14,7=42?", "greedy").text
    assert len(text) > 4
    for stop in (text[2:4], [text[2:4]], [text[2:4], ""]):
        assert ne.generate(embedded, "20,14,7=42?", "greedy", stop=stop).text == text[:2]
    assert ne.generate(embedded, "20,14,7=42?", "greedy", stop=None).text == text
    plain = ne.generate(embedded, "20,14,7=42?", "best_of_n", n=3, seed=4)
    numpys = {"n": np.int64(3), "seed": np.int64(4)}
    assert ne.generate(embedded, "20,14,7=42?", "best_of_n", **numpys).text == plain.text


@pytest.mark.parametrize("committed", [0, 2, 5])
@pytest.mark.parametrize("update", ["first", "all"])
@pytest.mark.parametrize("parameterisation", ["logits", "latents"])
@pytest.mark.parametrize("anchor", ["argmax", "sampled"])
def test_refine_equals_the_specification(committed, update, parameterisation, anchor):
    options = dict(update=update, parameterisation=parameterisation, anchor=anchor)
    ref = ne.refine(PAIR, PROMPT, RESPONSE, committed, steps=6, lr=0.2, lam=1.0, nll_weight=0.1,
                    temperature=0.8, **options)  # fmt: skip
    rows = len(RESPONSE) - committed
    assert ref.logits.shape == ref.gradient.shape == (rows, PAIR.policy.vocabulary)
    problem = PAIR.problem(PROMPT, Key.root(0) / "refine", max_new_tokens=6)
    z = [naive.next_logits(PAIR, PROMPT + RESPONSE[:i]) for i in range(len(RESPONSE))]
    sequence = naive.Sequence(RESPONSE, z, "eos", problem.key, seen=len(RESPONSE) - 1)
    dto = ne.api.DTO(steps=6, lr=0.2, min_lr=0.001, lam=1.0, nll_weight=0.1, **options)
    expected, _ = naive.refine(PAIR, problem, sequence, committed, 0.8, dto)
    torch.testing.assert_close(ref.logits[0], expected, rtol=0, atol=1e-9)
    hard = list(RESPONSE)
    if anchor == "argmax":
        hard[committed:] = [int(row.argmax()) for row in z[committed:]]
    gradient = naive.token_gradient(PAIR, problem, hard, 5, dto.objective)[committed:]
    torch.testing.assert_close(ref.gradient, gradient, rtol=0, atol=1e-10)
    y = naive.one_hot(RESPONSE[:5], PAIR.policy.vocabulary)
    assert ref.reward == pytest.approx(float(naive.reward_of(PAIR, problem, y)), abs=1e-12)
    if update == "first":
        torch.testing.assert_close(
            ref.logits[1:], torch.stack(z[committed:])[1:], rtol=0, atol=1e-9
        )


def test_refine_counts_its_passes():
    calm = ne.refine(PAIR, PROMPT, RESPONSE, lr=1e-9, min_lr=0.0)
    assert calm.passes == 1
    every = ne.refine(PAIR, PROMPT, RESPONSE, steps=5, grad_cache=False)
    assert every.passes == 5
    cached = ne.refine(PAIR, PROMPT, RESPONSE, steps=5)
    torch.testing.assert_close(cached.logits, every.logits, rtol=0, atol=1e-12)


def test_no_steps_leave_the_policy_as_it_is():
    ref = ne.refine(PAIR, PROMPT, RESPONSE, steps=0)
    z = naive.next_logits(PAIR, PROMPT)
    torch.testing.assert_close(ref.logits[0], z, rtol=0, atol=1e-10)
    assert ref.gradient.any()


def test_one_user_message_reaches_the_reward_model_through_its_template(embedded):
    prompt = embedded.policy.encode("1,2,3,4=24?")
    response = embedded.policy.encode("1*2=2;2*3=6;6*4=24")
    plain = ne.refine(embedded, prompt, response, steps=0)
    named = ne.refine(
        embedded, prompt, response, steps=0, messages=[{"role": "user", "content": "1,2,3,4=24?"}]
    )
    assert plain.reward == named.reward
