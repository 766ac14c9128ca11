"""Rollouts, whole and step by step, replays and questions, against passes without a cache."""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import replace

import pytest
import torch

from nabla_eval.engine.execute import Executor
from nabla_eval.engine.naive import next_logits
from nabla_eval.engine.rollout import rollout
from nabla_eval.errors import ContextError
from nabla_eval.options import Sampling, Steps
from nabla_eval.protocol import Compose, Generate, Replay
from nabla_eval.testing import tiny_pair, tiny_problems

PAIR = tiny_pair(seed=4)
HOT = Sampling(temperature=1.2)
AT_C = Steps(step="regex", step_regex="c")


def lasting(count, at_least=6, pair=PAIR, **options):
    """Problems whose draft is long enough for something to be cut from it."""
    problems = tiny_problems(pair, 60, **options)
    drafts = rollout(pair.policy, requests(problems))
    long = [p for p, draft in zip(problems, drafts, strict=True) if len(draft.tokens) >= at_least]
    assert len(long) >= count
    return long[:count]


def requests(problems, sampling=HOT, name="draft"):
    return [Generate(problem, problem.key / name / 0, sampling) for problem in problems]


def test_greedy_equals_generate_of_transformers():
    from transformers import Qwen2ForCausalLM

    problems = tiny_problems(PAIR, 6, max_new_tokens=20)
    model = Qwen2ForCausalLM(PAIR.policy.base.config)
    model = model.double().eval()
    model.model.load_state_dict(PAIR.policy.base.state_dict())
    model.tie_weights()
    for problem, ours in zip(
        problems, rollout(PAIR.policy, requests(problems, Sampling(temperature=0))), strict=True
    ):
        ids = torch.tensor([problem.prompt])
        with torch.no_grad():
            whole = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False
            )
        assert ours.tokens == tuple(whole[0, len(problem.prompt) :].tolist())


def test_what_is_recorded_is_what_a_plain_forward_pass_gives():
    problems = tiny_problems(PAIR, 5, max_new_tokens=12)
    for problem, trajectory in zip(problems, rollout(PAIR.policy, requests(problems)), strict=True):
        assert len(trajectory.tokens) == len(trajectory.entropy) == len(trajectory.states)
        for i in range(len(trajectory.tokens)):
            z = next_logits(PAIR, [*problem.prompt, *trajectory.tokens[:i]])
            p = torch.softmax(z, -1)
            torch.testing.assert_close(
                PAIR.policy.head(trajectory.states[i]), z, rtol=0, atol=1e-10
            )
            assert trajectory.argmax[i] == int(z.argmax())
            assert trajectory.top_probability[i] == pytest.approx(float(p.max()), abs=1e-12)
            assert trajectory.entropy[i] == pytest.approx(float(-(p * p.log()).sum()), abs=1e-10)
            own = float(p[trajectory.tokens[i]].log())
            assert trajectory.log_probability[i] == pytest.approx(own, abs=1e-10)
            uniform = torch.full_like(p, 1 / len(p))
            divergence = float((uniform * (uniform / p).log()).sum())
            assert trajectory.certainty[i] == pytest.approx(divergence, abs=1e-10)


@pytest.mark.parametrize(("keep", "tokens"), [(0, 12), (1, 12), (3, 12), (70, 150)])
def test_continuing_from_a_prefix_repeats_the_rest(keep, tokens):
    """The same key draws the same numbers at the same positions, wherever the rollout starts.

    Also where a response is longer than the blocks in which the numbers are drawn.
    """
    pair = PAIR if tokens == 12 else tiny_pair(seed=4, vocabulary=40)
    problems = lasting(2, max(6, keep + 61 * (keep > 3)), pair, max_new_tokens=tokens)
    wholes = rollout(pair.policy, requests(problems))
    asked = [
        Generate(problem, whole.key, HOT, prefix=whole, keep=keep, token=whole.tokens[keep])
        for problem, whole in zip(problems, wholes, strict=True)
    ]
    for whole, again in zip(wholes, rollout(pair.policy, asked), strict=True):
        assert again.tokens == whole.tokens
        torch.testing.assert_close(again.states, whole.states, rtol=0, atol=1e-12)
        assert again.entropy == pytest.approx(whole.entropy, abs=1e-12)
        assert again.cost.generated_tokens == len(whole.tokens) - keep - 1


def stepwise(problem, until, pair=PAIR):
    """A response written step by step with the whole response's key."""
    parts, current = [], None
    while current is None or current.stop == "step":
        keep = 0 if current is None else len(current.tokens)
        request = Generate(problem, problem.key / "draft" / 0, HOT, current, keep, until=until)
        (current,) = rollout(pair.policy, [request])
        parts.append(current.tokens[keep:])
    return current, parts


@pytest.mark.parametrize("until", [AT_C, Steps(step="tokens", step_tokens=3)])
def test_a_response_written_step_by_step_is_the_whole_response(until):
    """The delimiter stays, and going on from token ids is exact: so nothing may differ."""
    steps = 0
    for problem in tiny_problems(PAIR, 12, max_new_tokens=20):
        (whole,) = rollout(PAIR.policy, [Generate(problem, problem.key / "draft" / 0, HOT)])
        last, parts = stepwise(problem, until)
        assert (last.tokens, last.text, last.stop, last.argmax) == (
            whole.tokens, whole.text, whole.stop, whole.argmax,
        )  # fmt: skip
        for name in ("entropy", "log_probability", "certainty"):
            assert getattr(last, name) == pytest.approx(getattr(whole, name), abs=1e-9)
        for part in parts[:-1]:
            text = PAIR.policy.decode(part)
            assert text.endswith("c") and text.count("c") == 1 if until is AT_C else len(part) == 3
        steps += len(parts)
    assert steps > 12  # some responses have several


@pytest.mark.parametrize("step", ["newline", "blank_line", "semicolon"])
def test_a_step_has_ended_where_something_stands_before_its_delimiter(step):
    """On all texts of up to six characters, against the rule as one would say it."""
    assert not Steps(step="tokens").complete("a\n\nb;")
    unanchored = {"newline": r"\S[^\n]*\n", "blank_line": r"\S[^\n]*\n[^\S\n]*\n"}
    rule = unanchored.get(step, r"[^\s;][^;]*;")
    for length in range(7):
        for text in map("".join, itertools.product("a \n;", repeat=length)):
            assert Steps(step=step).complete(text) is bool(re.search(rule, text)), text


@pytest.mark.parametrize("step", ["newline", "blank_line", "semicolon"])
def test_the_end_of_a_step_is_looked_for_once(step):
    start = time.process_time()
    for piece in ("a", " ", "\n", ";", " \n", "a ", "a;", "a\n"):
        Steps(step=step).complete(piece * 200_000)
    # Linear passes take a tenth of a second; from every character on, they would take an hour.
    assert time.process_time() - start < 20


def test_replay_gives_what_the_rollout_recorded():
    problems = tiny_problems(PAIR, 6, max_new_tokens=14)
    drafts = rollout(PAIR.policy, [Generate(p, p.key, HOT) for p in problems])
    whole = Executor(PAIR)([Replay(p, d.text) for p, d in zip(problems, drafts, strict=True)])
    for problem, draft, again in zip(problems, drafts, whole, strict=True):
        assert again.tokens == draft.tokens[: draft.scored] and again.stop == "step"
        assert again.cost.model_calls == again.cost.scorings == 1
        for name in ("entropy", "top_probability", "log_probability", "certainty"):
            ours = getattr(again, name)
            assert ours == pytest.approx(getattr(draft, name)[: len(ours)], abs=1e-9)
        assert again.states == pytest.approx(draft.states[: draft.scored], abs=1e-9)
        request = Generate(problem, problem.key, HOT, again, len(again.tokens))
        assert rollout(PAIR.policy, [request])[0].tokens == draft.tokens


def test_replay_continues_a_prefix():
    (problem,) = tiny_problems(PAIR, 1)
    (first,) = Executor(PAIR)([Replay(problem, "ab")])
    (second,) = Executor(PAIR)([Replay(problem, "cd", prefix=first)])
    (whole,) = Executor(PAIR)([Replay(problem, "abcd")])
    assert second.tokens == whole.tokens and second.text == "abcd"
    assert second.log_probability == pytest.approx(whole.log_probability)
    with pytest.raises(ContextError, match="at least one"):
        Executor(PAIR)([Replay(problem, "")])


def test_a_question_to_the_policy_is_its_chat_template_around_the_words():
    pair = tiny_pair(chat=True)
    (problem,) = tiny_problems(pair, 1)
    ask = Compose(problem, (("user", "Is it right?"),), max_new_tokens=9)
    (prompt,) = Executor(pair)([ask])
    assert pair.policy.decode(prompt.problem.prompt) == "Is it right?\n"
    assert prompt.problem.max_new_tokens == 9 and prompt.cost.model_calls == 0
    assert (prompt.problem.key, prompt.problem.affixes) == (problem.key, problem.affixes)
    assert prompt.problem.question == "Is it right?"
    (long,) = Executor(pair)([replace(ask, messages=(("user", "x" * 4090),))])
    assert long.problem.max_new_tokens == 4096 - 4091
    (full,) = Executor(pair)([replace(ask, messages=(("user", "x" * 5000),))])
    assert full.problem.max_new_tokens == 0
