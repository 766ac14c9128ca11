"""The decode loop against forward passes without a cache and against transformers' generate."""

from __future__ import annotations

import pytest
import torch

from nabla_eval.engine.naive import next_logits
from nabla_eval.engine.rollout import rollout
from nabla_eval.options import Sampling
from nabla_eval.protocol import Generate
from nabla_eval.testing import tiny_pair, tiny_problems

PAIR = tiny_pair(seed=4)
HOT = Sampling(temperature=1.2)


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
