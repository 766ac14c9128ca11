"""The released code's optimisation of one response, restated plainly from reading it.

VITA-Group/Nabla-Reasoner at commit 46a1571, `optimize.py`: one leaf of logits for all tokens that
are left, one-hot rows with the softmax's gradient times each model's embedding table, torch's Adam
with a factor of the rate a step, the gradient of later rows set to zero, dL/dy reused until the
argmax of some row changes. Nothing here is shared with the package but the models' modules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nabla_eval.models.pair import Pair
from nabla_eval.protocol import Problem


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
