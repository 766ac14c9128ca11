"""Answers each request on its own, from the pieces of `engine/naive.py`: what the engine must say.

No batch, no cache, one forward pass a token; hidden in `Trajectory.states` are the logits z. With
it every method has a specification: the same generator, driven one problem at a time. What the
engine saves (shared prompts, kept prefixes) is counted here as the documents say, not as it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nabla_eval.cost.ledger import Ledger
from nabla_eval.dto import certify
from nabla_eval.engine import naive
from nabla_eval.engine.gradient import hard_sequence
from nabla_eval.engine.naive import ended
from nabla_eval.engine.response import no_distribution
from nabla_eval.errors import RewardError
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.models.chat import compose as rendered
from nabla_eval.models.pair import Pair
from nabla_eval.options import flatten
from nabla_eval.protocol import (
    Compose,
    Differentiate,
    Generate,
    GradientNorms,
    Problem,
    Prompt,
    Refine,
    Refinement,
    Replay,
    RewardScore,
    Score,
    Trajectory,
)
from nabla_theory.reach import cosine_rates, logit_reach

RAREST = math.log(torch.finfo(torch.float32).tiny)


class Plain:
    """Executes a list of requests, one after another; `keeps`: nothing falls out of the cache."""

    def __init__(self, pair: Pair, keeps: bool = True) -> None:
        self.pair, self.keeps = pair, keeps
        self._z: dict[tuple[int, ...], Tensor] = {}
        self._cached: list[tuple[int, ...]] = []  # contexts that rollouts have encoded
        self._gradients: dict[Any, tuple[Any, Tensor]] = {}  # that were taken

    def __call__(self, requests: list[Any]) -> list[Any]:
        self._prompts: set[tuple[int, ...]] = set()  # encoded for this list of requests
        return [getattr(self, type(request).__name__.lower())(request) for request in requests]

    def generate(self, request: Generate) -> Trajectory:
        problem, prefix = request.problem, request.prefix
        y = [] if prefix is None else list(prefix.tokens[: request.keep])
        z = [] if prefix is None else list(prefix.states[: request.keep])
        if request.token is not None:
            y.append(request.token)
            z.append(prefix.states[request.keep])
        given = len(y)
        ended = (
            self.ended(request, y, given)
            if request.token is not None or not self.room(problem, y)
            else None
        )
        while ended is None:
            z.append(self.logits([*problem.prompt, *y]))
            if not math.isfinite(float(z[-1].max())):
                raise no_distribution(self.pair.policy, problem, len(y))
            distribution = naive.distribution(z[-1], request.sampling)
            y.append(naive.draw(distribution, request.key.uniform(len(y))))
            ended = self.ended(request, y, given)
        stop, scored, text = ended
        cost = self.decoding_cost(request, y, given)
        return self.trajectory(y, z, text, scored, stop, request.key, cost)

    @staticmethod
    def room(problem: Problem, y: Sequence[int]) -> bool:
        return len(y) < problem.max_new_tokens

    def ended(self, request: Generate, y: list[int], given: int) -> Any:
        """How a response ends after its last token: stop reason, scored tokens, text; or None."""
        policy, problem = self.pair.policy, request.problem
        whole = policy.decode(y)
        if len(y) > given or request.token is not None:
            end = ended(self.pair, problem, y)
            if end is not None:
                return end
        elif not self.room(problem, y):
            return "length", len(y), whole
        own = y[given:]
        until = request.until
        if until is None or not own:
            return None
        complete = len(own) >= until.step_tokens or until.complete(policy.decode(own))
        return ("step", len(y), whole) if complete else None

    def decoding_cost(self, request: Generate, y: list[int], given: int) -> Ledger:
        policy, new = self.pair.policy, len(y) - given
        if not new:
            return Ledger()
        context = (*request.problem.prompt, *y[:given])
        kept = request.prefix is not None and any(
            own[: len(context) - 1] == context[:-1] for own in self._cached
        )
        shared = kept or context[:-1] in self._prompts
        if not kept:
            self._prompts.add(context[:-1])
        if self.keeps:
            self._cached.append((*request.problem.prompt, *y[:-1]))
        read = 1 if shared else len(context)
        return Ledger(
            generated_tokens=new,
            prefills=int(not shared),
            prefill_tokens=read,
            flops=2.0 * policy.parameters * (read - 1 + new),
        )

    def trajectory(self, y, z, text, scored, stop, key, cost) -> Trajectory:
        p = [torch.log_softmax(row, -1) for row in z]
        return Trajectory(
            tokens=tuple(y),
            text=text,
            scored=scored,
            stop=stop,
            argmax=tuple(int(row.argmax()) for row in z),
            entropy=tuple(float(-(row.exp() * row).nansum()) for row in p),
            top_probability=tuple(float(row.max().exp()) for row in p),
            key=key,
            log_probability=tuple(float(row[token]) for row, token in zip(p, y, strict=True)),
            certainty=tuple(float(-math.log(len(row)) - row.clamp_min(RAREST).mean()) for row in p),
            states=tuple(z),
            cost=cost,
        )

    def logits(self, tokens: list[int]) -> Tensor:
        """`naive.next_logits`, remembered: a pure function of the tokens."""
        known = tuple(tokens)
        if known not in self._z:
            self._z[known] = naive.next_logits(self.pair, tokens)
        return self._z[known]

    @torch.no_grad()
    def score(self, request: Score) -> RewardScore:
        judge, problem, trajectory = self.pair.judge, request.problem, request.trajectory
        tokens = list(trajectory.tokens[: trajectory.scored])
        if request.repeat_prompt:
            tokens = [*problem.prompt, *tokens]
        before, after = problem.affixes.before, problem.affixes.after
        inputs = torch.cat(
            [judge.table[list(before)], judge.embedding[tokens], judge.table[list(after)]]
        )
        scores = judge.head(judge.base(inputs_embeds=inputs[None]).last_hidden_state)[0].tolist()
        if not math.isfinite(scores[-1]):
            raise RewardError(f"{judge.name} gave {scores[-1]}")
        own = tuple(scores[len(before) : len(before) + len(tokens)]) if judge.process else ()
        flops = 2.0 * judge.parameters * len(inputs)
        return RewardScore(scores[-1], own, cost=Ledger(scorings=1, flops=flops))

    def differentiate(self, request: Differentiate) -> GradientNorms:
        trajectory, dto = request.trajectory, request.dto
        gradient, cost = self.gradient(request)
        hard = hard_sequence(trajectory, request.position, dto)
        same = [i for i in request.rows if hard_sequence(trajectory, i, dto) == hard]
        norms = {
            row: norm_of(gradient[row], trajectory.states[row], request.norm, request.temperature)
            for row in same or [request.position]
        }
        return GradientNorms(norms, cost)

    def gradient(self, request: Differentiate | Refine) -> tuple[Tensor, Ledger]:
        """dL/dy at the hard sequence of a position, which costs a pass once a trajectory."""
        problem, trajectory, dto = request.problem, request.trajectory, request.dto
        hard = hard_sequence(trajectory, request.position, dto)
        place = id(trajectory.states), hard, trajectory.scored, dto.objective
        if place in self._gradients:
            return self._gradients[place][1], Ledger()
        gradient = naive.token_gradient(
            self.pair, problem, list(hard), trajectory.scored, dto.objective
        )
        self._gradients[place] = trajectory.states, gradient
        return gradient, self.pass_cost(problem, trajectory, 1)

    def pass_cost(self, problem: Problem, trajectory: Trajectory, passes: int) -> Ledger:
        policy, judge, affixes = self.pair.policy, self.pair.judge, problem.affixes
        read = len(problem.prompt) + len(trajectory.tokens) - 1
        judged = len(affixes.before) + trajectory.scored + len(affixes.after)
        flops = passes * 4.0 * (policy.parameters * read + judge.parameters * judged)
        return Ledger(gradient_passes=passes, flops=flops)

    def refine(self, request: Refine) -> Refinement:
        problem, trajectory, dto = request.problem, request.trajectory, request.dto
        z = trajectory.states[request.position]
        nothing: tuple[int | None, ...] = (None,) * len(request.keys)
        certain = self.certified(request) if request.certify else nothing
        flags = tuple(token is not None for token in certain)
        place = id(trajectory.states), hard_sequence(trajectory, request.position, dto)
        known = (*place, trajectory.scored, dto.objective) in self._gradients
        ready = not dto.steps or known
        if certain[0] is not None or request.upto == "certified":
            return Refinement(certain, flags, ready=ready)
        norm, cost = None, Ledger()
        if dto.steps:
            first, cost = self.gradient(request)
            norm = norm_of(first[request.position], z, request.norm, request.relaxation)
        if request.upto == "gradient":
            return Refinement(certain, flags, ready=True, cost=cost)
        sequence = naive.Sequence(
            list(trajectory.tokens), list(trajectory.states), trajectory.stop, trajectory.key,
            seen=trajectory.scored,
        )  # fmt: skip
        refined, hard = naive.refine(
            self.pair, problem, sequence, request.position, request.relaxation, dto
        )
        flips = sum(a != b for a, b in pairwise(hard))
        passes = flips if dto.grad_cache else max(0, dto.steps - 1)
        config = _options(request)
        drawn = [naive.resample(z, refined, self.pair, config, key) for key in request.keys]
        cost += self.pass_cost(problem, trajectory, passes) + Ledger(refinements=1, flips=flips)
        start, _ = naive.refine(
            self.pair, problem, sequence, request.position, request.relaxation,
            replace(dto, steps=0),
        )  # fmt: skip
        moved = float((refined - start).masked_fill(refined == start, 0).abs().max())
        return Refinement(tuple(drawn), flags, (), flips, moved, norm, True, cost)

    def certified(self, request: Refine) -> tuple[int | None, ...]:
        """Draws that are those of every distribution in reach, token by token."""
        z = request.trajectory.states[request.position]
        sampling, dto = request.sampling, request.dto
        exact = dto.parameterisation == "logits" and dto.logits_dtype == "float32"
        if dto.optimizer != "adamw" or not exact:
            return (None,) * len(request.keys)
        config = _options(request)
        masked = naive.masked(z, z, self.pair, config)
        largest = max(abs(value) for value in masked.tolist() if math.isfinite(value))
        eps = torch.finfo(z.dtype).eps
        rates = cosine_rates(dto.lr, dto.min_lr, dto.steps)
        if dto.schedule == "clipped_cosine":
            rates = [max(dto.min_lr, rate) for rate in cosine_rates(dto.lr, 0.0, dto.steps)]
        way = logit_reach(rates) * certify.SLACK
        odds = 2 * (way + 4 * dto.steps * eps * largest) / sampling.temperature
        cumulative = [0.0, *torch.softmax(masked / sampling.temperature, -1).cumsum(-1).tolist()]
        tokens: list[int | None] = []
        for key in request.keys:
            u = key.uniform()
            token = next(v for v, upper in enumerate(cumulative[1:]) if upper > u)
            low, high = _moved(cumulative[token], odds), _moved(cumulative[token + 1], -odds)
            tokens.append(token if low + 64 * eps < u < high - 64 * eps else None)
        return tuple(tokens)

    def compose(self, request: Compose) -> Prompt:
        policy = self.pair.policy
        text = rendered(policy.tokenizer, request.messages)
        ids = tuple(policy.tokenizer(text)["input_ids"])
        room = max(0, min(request.max_new_tokens, policy.context - len(ids)))
        problem = replace(
            request.problem, prompt=ids, text=text, messages=request.messages, stop=request.stop,
            max_new_tokens=room,
        )  # fmt: skip
        return Prompt(problem)

    def replay(self, request: Replay) -> Trajectory:
        policy, problem, prefix = self.pair.policy, request.problem, request.prefix
        y = [] if prefix is None else list(prefix.tokens)
        y += policy.tokenizer(request.text)["input_ids"]
        z = [self.logits([*problem.prompt, *y[:i]]) for i in range(len(y))]
        flops = 2.0 * policy.parameters * (len(problem.prompt) + len(y) - 1)
        cost = Ledger(scorings=1, flops=flops)
        text = policy.decode(y)
        return self.trajectory(y, z, text, len(y), "step", problem.key, cost)


def norm_of(g: Tensor, z: Tensor, kind: str, temperature: float) -> float:
    """Norm of dL/dy at one position, or of dL/dz there."""
    if kind == "logits":
        p = torch.softmax(z / temperature, -1)
        g = (torch.diag(p) - torch.outer(p, p)) @ g / temperature
    return float(g.norm())


def _moved(probability: float, odds: float) -> float:
    """A probability after its log odds have moved."""
    if not 0 < probability < 1 - 1e-15:
        return round(probability)
    return 1 / (1 + (1 / probability - 1) * math.exp(-odds))


def _options(request: Refine) -> Nabla:
    """`naive.resample` reads the method's options: those that this request came from."""
    sampling = request.sampling
    return Nabla(
        **flatten(request.dto),
        resample_temperature=sampling.temperature,
        resample_top_p=sampling.top_p,
        resample_top_k=sampling.top_k,
        min_probability=request.min_probability,
    )
