"""`refine` with the released code's options against its loop, restated in `released_loop`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from released_loop import ReleasedLoop, accepts

import nabla_eval as ne
from nabla_eval.methods.registry import configure
from nabla_eval.models.pair import Pair
from nabla_eval.randomness import Key
from nabla_eval.testing import tiny_pair

RELEASED = {"schedule": "clipped_cosine", "end_token": "kept", "anchor": "argmax"}


def countdown(dtype: str) -> tuple[Pair, list[int], list[int]]:
    pair = ne.load_pair(dtype=dtype)
    prompt = list(pair.policy.encode("20,14,7=27?"))
    return pair, prompt, [*pair.policy.encode("20-14=6;6+7=13"), *pair.policy.end_ids]


def tiny(dtype: str) -> tuple[Pair, list[int], list[int]]:
    pair = tiny_pair(seed=6, process=False, dtype=getattr(torch, dtype))
    return pair, [2, 5, 3], [4, 7, 2, 9, 3, 1]


PAIRS = {"embedded": countdown, "qwen2": tiny}


@pytest.mark.parametrize(
    ("dtype", "close"), [("float32", 1e-3), ("float64", 1e-9)], ids=["float32", "float64"]
)
@pytest.mark.parametrize(("lr", "tau"), [(0.01, 1.0), (0.3, 0.5)])
@pytest.mark.parametrize(
    ("which", "committed"), [("embedded", 0), ("embedded", 2), ("qwen2", 0), ("qwen2", 3)]
)
def test_refine_is_the_released_loop(which, committed, dtype, close, lr, tau) -> None:
    """Logits to `close` of the largest move, dL/dy to 1e-4 of the largest entry, same passes.

    At tokens that the policy is unsure of, the only ones that are refined: elsewhere float32 itself
    does not hold the softmax's gradient to three digits, in neither code.
    """
    pair, prompt, response = PAIRS[which](dtype)
    problem = pair.problem(prompt, Key.root(0), max_new_tokens=len(response))
    loop = ReleasedLoop(pair, problem, response[:committed], tau)
    start = loop.ahead(response)
    expected, passes = loop.optimise(start, 20, lr, 0.1)
    ours = ne.refine(
        pair, prompt, response, committed, lr=lr, min_lr=0.1 * lr, temperature=tau, **RELEASED
    )
    move = float((expected - start).abs().max())
    assert move > lr and ours.passes == passes
    assert float((ours.logits - expected).abs().max()) < close * move
    gradient = loop.gradient(start)
    assert float((ours.gradient - gradient).abs().max()) < 1e-4 * float(gradient.abs().max())
    assert (ours.logits[1:] - start[1:]).abs().max() < 1e-4 if len(start) > 1 else True
    # What the preset had before: another schedule, and an end token without a reward gradient.
    cosine = ne.refine(
        pair, prompt, response, committed, lr=lr, min_lr=0.1 * lr, temperature=tau,
        **{**RELEASED, "schedule": "cosine"},
    )  # fmt: skip
    assert float((cosine.logits - expected).abs().max()) > 1e-2 * move
    template = ne.refine(pair, prompt, response, committed, steps=0)
    assert float((template.gradient[-1] - gradient[-1]).norm()) > 0.1 * float(gradient[-1].norm())


@pytest.mark.parametrize("which", PAIRS)
def test_refine_in_bfloat16_is_the_released_loop_over_vllm(which) -> None:
    """There the logits are bfloat16 and so are Adam's moments; to the last bit on one machine."""
    pair, prompt, response = PAIRS[which]("float64")
    loop = ReleasedLoop(pair, pair.problem(prompt, Key.root(0), max_new_tokens=9), response[:3])
    start = loop.ahead(response).bfloat16()
    expected, _ = loop.optimise(start, 20, 0.01, 0.1)
    ours = ne.refine(pair, prompt, response, 3, logits_dtype="bfloat16", **RELEASED)
    assert ours.logits[0].tolist() == expected[0].double().tolist()
    still = start[0].abs() > 4
    assert still.any() and (expected[0] == start[0])[still].all()


def test_acceptance_released_is_the_released_comparison() -> None:
    """Both rewards and the verdict of every candidate; most of what lowers the reward gets in."""
    pair = ne.load_pair(dtype="float64")
    options = {"acceptance": "released", "end_token": "kept", "n": 8, "passes": 8, "seed": 3}
    seen = lower = 0
    for text in ("20,14,7=27?", "3,8,25=1?", "12,5,9=51?", "30,2,4=19?"):
        outcome = ne.generate(pair, text, temperature=1.0, **options).trace
        problem = pair.problem(text, Key.root(0), max_new_tokens=24)
        current = outcome.drafts[0].tokens
        for candidate in outcome.candidates:
            verdict, *rewards = accepts(pair, problem, list(current), list(candidate.tokens))
            assert verdict == (candidate.verdict == "accepted")
            ours = [candidate.compared_reward, candidate.new_reward]
            assert ours == pytest.approx(rewards, abs=1e-9)
            current = candidate.tokens if verdict else current
            seen += 1
            lower += verdict and candidate.new_reward < candidate.old_reward
    assert seen >= 10 and lower >= 3


def test_where_no_entry_moves_the_preset_is_its_own_twin() -> None:
    """bfloat16 at |z| > 4: refined and unrefined logits are the same numbers."""
    pair, prompt, response = tiny("float64")
    head = pair.policy.head
    wide = replace(pair, policy=replace(pair.policy, head=lambda states: 40 * head(states)))
    draws = {}
    for steps in (0, 20):
        for dtype in ("float32", "bfloat16"):
            ref = ne.refine(wide, prompt, response, 2, steps=steps, logits_dtype=dtype, **RELEASED)
            draws[dtype, steps] = ref.logits[0]
    large = draws["bfloat16", 0].abs() > 4
    assert large.sum() > len(large) / 2
    assert (draws["bfloat16", 0] == draws["bfloat16", 20])[large].all()
    assert (draws["float32", 0] != draws["float32", 20])[large].any()


def test_the_reuse_of_gradients_changes_nothing() -> None:
    pair, prompt, response = countdown("float64")
    loop = ReleasedLoop(pair, pair.problem(prompt, Key.root(0), max_new_tokens=9), [])
    start = loop.ahead(response)
    kept, passes = loop.optimise(start, 20, 1.0, 0.1)
    afresh, every = loop.optimise(start, 20, 1.0, 0.1, kept=False)
    assert passes < every == 20
    torch.testing.assert_close(kept, afresh, rtol=0, atol=1e-9)


def test_the_presets_are_the_values_of_the_released_scripts() -> None:
    """qwen_ins_math500.sh, qwen_ins_aime24.sh and qwen_ins_amc.sh, and the defaults they leave."""
    own = {
        name: configure("nabla", {}, preset=name)
        for name in ("released", "released_aime", "released_amc")
    }
    for config in own.values():
        assert config.drawing.temperature == 0.5 and config.drawing.top_p == config.top_p
        assert config.top_k == config.drawing.top_k == 20
        assert config.threshold_inclusive and config.gradient_norm == "onehot"
        assert config.relaxation == 1.0 and config.end_token == "kept"
        assert config.schedule == "clipped_cosine" and config.logits_dtype == "bfloat16"
        assert config.acceptance == "strict" and (config.n, config.passes) == (8, 1)
    sampled = {name: (c.temperature, c.top_p) for name, c in own.items()}
    assert sampled == {
        "released": (0.6, 0.95), "released_aime": (0.6, 0.95), "released_amc": (0.7, 0.8)
    }  # fmt: skip
    thresholds = [config.gradient_threshold for config in own.values()]
    assert thresholds == [4.0, 8.0, 4.0]
    kinds = [config.parameterisation for config in own.values()]
    assert kinds == ["logits", "logits", "latents"]
    for method in ("best_of_n", "self_consistency"):  # whose drafts are the same draws
        for name, config in own.items():
            assert configure(method, {}, preset=name).sampling == config.sampling
