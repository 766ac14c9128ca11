"""What the engine is measured against: transformers' `generate`, and bare passes of the models."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import StoppingCriteria, StoppingCriteriaList

from nabla_eval.dto.objective import widen
from nabla_eval.engine.execute import Executor
from nabla_eval.methods.nabla_options import uncertain
from nabla_eval.methods.registry import configure
from nabla_eval.models.pair import Pair
from nabla_eval.models.prefix import padded
from nabla_eval.options import Sampling
from nabla_eval.protocol import Differentiate, Generate, Problem, Refine, Refinement


class Lengths(StoppingCriteria):
    """Ends each row of transformers' batch where ours ends."""

    def __init__(self, prompt: int, lengths: list[int], device: torch.device) -> None:
        self.ends = torch.tensor([prompt + length for length in lengths], device=device)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return input_ids.shape[1] >= self.ends


def written(pair: Pair, problems: list[Problem]) -> int:
    """Tokens that our decode loop writes."""
    requests = [Generate(problem, problem.key / "draft", Sampling()) for problem in problems]
    return sum(len(row.tokens) for row in Executor(pair)(requests))


def written_by_transformers(
    pair: Pair, model: Any, problems: list[Problem], lengths: list[int] | None
) -> int:
    """Tokens that `model.generate` writes, padding not counted."""
    ids, mask = padded([p.prompt for p in problems], pair.policy.device)
    options: dict[str, Any] = {}
    if lengths is not None:
        ends = Lengths(ids.shape[1], lengths, ids.device)
        options = {"stopping_criteria": StoppingCriteriaList([ends])}
    config = GenerationConfig(
        do_sample=True,
        top_k=0,
        temperature=0.7,
        max_new_tokens=max(problem.max_new_tokens for problem in problems),
        pad_token_id=pair.policy.tokenizer.pad_token_id,
        eos_token_id=list(pair.policy.end_ids),
    )
    with torch.no_grad():
        written = model.generate(ids, attention_mask=mask, generation_config=config, **options)
    if lengths is not None:
        assert written.shape[1] == ids.shape[1] + max(lengths)
        return sum(lengths)
    return int((written[:, ids.shape[1] :] != pair.policy.tokenizer.pad_token_id).sum())


class Refining:
    """Gradient and T steps at one position of a response to each problem.

    With `gated`, the gradient norms of all uncertain positions too, as a gate on them needs. The
    learning rate is so small that nothing flips: one gradient pass a response.
    """

    def __init__(self, pair: Pair, problems: list[Problem], gated: bool = False) -> None:
        self.pair, self.executor, self.gated = pair, Executor(pair), gated
        self.config = configure("nabla", {"lr": 1e-6, "min_lr": 1e-6})
        asks = [Generate(p, p.key / "draft", self.config.sampling) for p in problems]
        drafts = [
            (ask.problem, draft) for ask, draft in zip(asks, self.executor(asks), strict=True)
        ]
        free = [(*own, uncertain(own[1], self.config)) for own in drafts]
        self.chosen = [own for own in free if own[2]]
        self.drawn: list[Refinement] = []

    @property
    def tokens(self) -> float:
        """Mean length of the responses."""
        return sum(len(draft.tokens) for _, draft, _ in self.chosen) / len(self.chosen)

    def __call__(self) -> None:
        config = self.config
        if self.gated:
            self.executor(
                [
                    Differentiate(problem, draft, rows[0], config.dto, rows=tuple(rows))
                    for problem, draft, rows in self.chosen
                ]
            )
        self.drawn = self.executor(
            [
                Refine(
                    problem,
                    draft,
                    rows[0],
                    keys=(problem.key / "resample",),
                    sampling=config.drawing,
                    dto=config.dto,
                    relaxation=config.relaxation,
                )
                for problem, draft, rows in self.chosen
            ]
        )
        self.executor.gradients.clear()  # what would be taken once only

    def bare(self) -> None:
        """The floor: one forward and one backward pass of both models to their embeddings."""
        policy, reward = self.pair.policy, self.pair.judge
        rows = [(*problem.prompt, *draft.tokens) for problem, draft, _ in self.chosen]
        ids, mask = padded(rows, policy.device)
        longest = max(len(draft.tokens) for _, draft, _ in self.chosen)
        places = (mask.cumsum(-1) - 1).clamp_(min=0)
        embeds = policy.embedding[ids].detach().requires_grad_()
        states = policy.base(
            inputs_embeds=embeds, attention_mask=mask, position_ids=places, use_cache=False
        ).last_hidden_state[:, -longest - 1 : -1]
        known = widen(policy.head(states)).log_softmax(-1)
        likelihood = known.gather(-1, ids[:, -longest:, None]).sum()
        torch.autograd.grad(likelihood, embeds)
        embeds = reward.embedding[ids].detach().requires_grad_()
        states = reward.base(
            inputs_embeds=embeds, attention_mask=mask, position_ids=places, use_cache=False
        ).last_hidden_state[:, -1:]
        torch.autograd.grad(reward.head(states).sum(), embeds)
