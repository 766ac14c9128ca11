"""`refine` with the released code's options against its loop, restated plainly from reading it.

VITA-Group/Nabla-Reasoner at commit 46a1571, `optimize.py`: one leaf of logits for all tokens that
are left, one-hot rows with the softmax's gradient times each model's embedding table, torch's Adam
with a factor of the rate a step, the gradient of later rows set to zero, dL/dy reused until the
argmax of some row changes. Nothing here is shared with the package but the models' modules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import nabla_eval as ne
from nabla_eval.methods.registry import configure
from nabla_eval.models.pair import Pair
from nabla_eval.protocol import Problem
from nabla_eval.randomness import Key
from nabla_eval.testing import tiny_pair

RELEASED = {"schedule": "clipped_cosine", "end_token": "kept", "anchor": "argmax"}


@torch.no_grad()
def accepts(pair: Pair, problem: Problem, current: list[int], rival: list[int]) -> tuple[Any, ...]:
    """`acceptance_criteria` of `decoding.py`: the verdict and the two rewards that it compares.

    The current response is shown to the reward model with the prompt's ids before it.
    """
    judge = pair.judge
    before, after = (list(ids) for ids in (problem.affixes.before, problem.affixes.after))

    def reward(tokens: list[int]) -> float:
        shown = torch.cat([judge.table[before], judge.embedding[tokens], judge.table[after]])
        return float(judge.head(judge.base(inputs_embeds=shown[None]).last_hidden_state)[0, -1])

    compared, proposed = reward([*problem.prompt, *current]), reward(rival)
    return proposed > compared, compared, proposed


@dataclass
class ReleasedLoop:
    """One prompt whose response is committed up to some token, and the released options."""

    pair: Pair
    problem: Problem
    committed: list[int]
    tau: float = 1.0
    nll_coeff: float = 1e-3
    reward_coeff: float = 1.0

    def __post_init__(self) -> None:
        policy, judge = self.pair.policy, self.pair.judge
        self.table, self.reward_table = policy.embedding, judge.embedding
        given = torch.tensor([*self.problem.prompt, *self.committed])
        self.before = self.table[given]
        affixes, own = self.problem.affixes, self.reward_table[self.committed]
        self.reward_before = torch.cat([judge.table[list(affixes.before)], own])
        self.reward_after = judge.table[list(affixes.after)]

    def ahead(self, response: list[int]) -> Tensor:
        """Logits of the response's tokens after the committed ones, by one pass over them all."""
        ids = torch.tensor([[*self.problem.prompt, *response]])
        with torch.no_grad():
            states = self.pair.policy.base(input_ids=ids).last_hidden_state[0]
            first = len(self.problem.prompt) + len(self.committed)
            return self.pair.policy.head(states[first - 1 : -1])

    def one_hot(self, logits: Tensor) -> Tensor:
        # Also over vLLM, where logits are bfloat16: autocast takes the softmax in float32.
        soft = torch.softmax(logits.to(self.table.dtype) / self.tau, -1)
        hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        return (hard - soft).detach() + soft

    def loss(self, y: Tensor) -> Tensor:
        policy, judge = self.pair.policy, self.pair.judge
        inputs = torch.cat([self.before, y.to(self.table.dtype) @ self.table])
        states = policy.base(inputs_embeds=inputs[None]).last_hidden_state[0]
        predicting = policy.head(states[len(self.before) - 1 : -1])
        likelihood = (torch.log_softmax(predicting, -1) * y).sum()
        rows = y.to(self.reward_table.dtype) @ self.reward_table
        shown = torch.cat([self.reward_before, rows, self.reward_after])
        reward = judge.head(judge.base(inputs_embeds=shown[None]).last_hidden_state)[0, -1]
        return -(self.nll_coeff * likelihood + self.reward_coeff * reward)

    def gradient(self, logits: Tensor) -> Tensor:
        """dL/dy at the start, which the selection takes the norm of."""
        y = self.one_hot(logits.clone().requires_grad_())
        return torch.autograd.grad(self.loss(y), y)[0]

    def optimise(
        self, logits: Tensor, iterations: int, lr: float, floor: float, kept: bool = True
    ) -> tuple[Tensor, int]:
        """The logits after all iterations, and how often both models were differentiated."""
        leaf = torch.nn.Parameter(logits.clone())
        adam = torch.optim.Adam([leaf], lr=lr)

        def factor(t: int) -> float:
            return max(floor, 0.5 * (1.0 + math.cos(math.pi * t / max(1, iterations))))

        annealing = torch.optim.lr_scheduler.LambdaLR(adam, factor)
        tokens, known, passes = leaf.argmax(-1), None, 0
        for _ in range(iterations):
            adam.zero_grad()
            y: Any = self.one_hot(leaf)
            if known is None or not kept:
                y.retain_grad()
                self.loss(y).backward()
                known, passes = y.grad.clone(), passes + 1
            else:
                (known * y).sum().backward()
            leaf.grad[1:] = 0.0
            adam.step()
            annealing.step()
            now = leaf.argmax(-1)
            if not torch.equal(now, tokens):
                tokens, known = now, None
        return leaf.detach(), passes


@cache
def countdown(dtype: str) -> tuple[Pair, list[int], list[int]]:
    pair = ne.load_pair(dtype=dtype)
    prompt = list(pair.policy.encode("20,14,7=27?"))
    return pair, prompt, [*pair.policy.encode("20-14=6;6+7=13"), *pair.policy.end_ids]


@cache
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
    pair, *_ = countdown("float64")
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
