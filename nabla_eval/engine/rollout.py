"""The decode loop: prefill, then one token a step for every unfinished row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nabla_eval.config import Steps
from nabla_eval.cost.flops import forward_flops
from nabla_eval.cost.ledger import Ledger
from nabla_eval.engine.batching import left_pad, positions
from nabla_eval.engine.sampler import Filter, draw
from nabla_eval.models.pair import Policy
from nabla_eval.randomness import uniforms
from nabla_eval.requests import Generate, Problem, StopReason, Trajectory

COLUMNS = ("argmax", "entropy", "top_probability", "log_probability", "certainty")
_BLOCK = 64  # steps whose records and random numbers are allocated together
_RAREST = math.log(torch.finfo(torch.float32).tiny)


@dataclass
class _Row:
    """One response being written."""

    request: Generate
    tokens: list[int] = field(default_factory=list)
    given: int = 0  # tokens that were not generated here
    stop: StopReason | None = None
    scored: int = 0
    text: str = ""

    @classmethod
    def of(cls, request: Generate, policy: Policy) -> _Row:
        row = cls(request)
        if request.prefix is not None:
            row.tokens = list(request.prefix.tokens[: request.keep])
            if request.token is not None:
                row.tokens.append(request.token)
            row.given = len(row.tokens)
            if request.token is not None:
                row.check(policy)
        if row.stop is None and len(row.tokens) >= request.problem.max_new_tokens:
            row.finish(policy, "length", len(row.tokens))
        return row

    @property
    def context(self) -> list[int]:
        return [*self.request.problem.prompt, *self.tokens]

    def check(self, policy: Policy) -> None:
        """Finish the row when its last token ends the response."""
        problem = self.request.problem
        if self.tokens[-1] in policy.end_ids:
            self.finish(policy, "eos", len(self.tokens) - 1)
        elif problem.stop and (cut := _stop_cut(policy, self.tokens, problem)) is not None:
            self.text, self.scored = cut
            self.stop = "stop"
        elif len(self.tokens) >= problem.max_new_tokens:
            self.finish(policy, "length", len(self.tokens))
        elif self.request.until is not None and self._step_ends(policy, self.request.until):
            self.finish(policy, "step", len(self.tokens))

    def _step_ends(self, policy: Policy, until: Steps) -> bool:
        own = self.tokens[self.given :]
        return len(own) >= until.step_tokens or until.complete(policy.decode(own))

    def finish(self, policy: Policy, reason: StopReason, scored: int) -> None:
        self.stop, self.scored = reason, scored
        self.text = policy.decode(self.tokens[:scored])


def _stop_cut(policy: Policy, tokens: list[int], problem: Problem) -> tuple[str, int] | None:
    """Text before the first stop string of the answer and the tokens that write it, if any."""
    stops, thought = problem.stop, problem.thought
    window = max(len(stop) for stop in stops) + 8  # a token is at least one byte of text
    tail = policy.decode(tokens[-window:])
    if not any(stop in tail for stop in stops):
        return None
    text = policy.decode(tokens)
    begin = 0 if thought is None else thought.answer_at(text)
    if begin is None:
        return None
    cuts = [at for stop in stops if (at := text.find(stop, begin)) >= 0]
    if not cuts:
        return None
    cut, scored = min(cuts), len(tokens)
    while scored > 0 and len(policy.decode(tokens[: scored - 1])) >= cut:
        scored -= 1
    return text[:cut], scored


class _Record:
    """What the policy knew at each step, kept on the device until the batch is done."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.blocks: dict[str, list[Tensor]] = {}

    def write(self, step: int, active: Tensor, **values: Tensor) -> None:
        for name, value in values.items():
            blocks = self.blocks.setdefault(name, [])
            if step % _BLOCK == 0:
                blocks.append(value.new_zeros((self.rows, _BLOCK, *value.shape[1:])))
            blocks[-1][active, step % _BLOCK] = value

    def read(self, name: str) -> Tensor:
        """`[rows, steps, ...]`."""
        return torch.cat(self.blocks[name], 1)


@torch.inference_mode(False)
@torch.no_grad()
def rollout(policy: Policy, requests: Sequence[Generate]) -> list[Trajectory]:
    """Generate responses as one batch.

    A token at response position i is drawn with the number that the request's key has at i, so a
    row's tokens depend neither on its neighbours nor on where its rollout began. Finished rows
    leave the batch and its KV cache. One host synchronisation a step reads the drawn tokens.
    """
    rows = [_Row.of(request, policy) for request in requests]
    unfinished = [i for i, row in enumerate(rows) if row.stop is None]
    record = _Record(len(rows))
    if unfinished:
        _decode(policy, rows, unfinished, record)
    columns = {name: record.read(name) for name in record.blocks}
    plain = {name: columns[name].tolist() for name in COLUMNS if name in columns}
    states = columns.get("states")
    return [
        _trajectory(policy, row, {name: values[i] for name, values in plain.items()},
                    None if states is None else states[i])
        for i, row in enumerate(rows)
    ]  # fmt: skip


def _decode(policy: Policy, rows: list[_Row], unfinished: list[int], record: _Record) -> None:
    live = [rows[i] for i in unfinished]
    active = torch.tensor(unfinished, device=policy.device)
    ids, mask = left_pad([row.context for row in live], policy.pad_id, policy.device)
    place = positions(mask)
    filters = Filter([row.request.sampling for row in live], policy.device)
    cache, step = None, 0
    while True:
        output = policy.base(
            input_ids=ids,
            attention_mask=mask,
            position_ids=place,
            past_key_values=cache,
            use_cache=True,
        )
        cache, hidden = output.past_key_values, output.last_hidden_state[:, -1]
        if step % _BLOCK == 0:
            starts = [len(row.tokens) for row in live]
            numbers = uniforms([row.request.key for row in live], starts, _BLOCK)
            block = torch.from_numpy(numbers).to(policy.device)
        logits = policy.head(hidden)
        drawn = draw(filters.distribution(logits), block[:, step % _BLOCK])
        record.write(step, active, states=hidden, **statistics(logits, drawn))
        keep = []
        for i, token in enumerate(drawn.tolist()):
            live[i].tokens.append(token)
            live[i].check(policy)
            if live[i].stop is None:
                keep.append(i)
        step += 1
        if not keep:
            return
        if len(keep) < len(live):
            live = [live[i] for i in keep]
            kept = torch.tensor(keep, device=policy.device)
            cache.batch_select_indices(kept)
            active, drawn, mask, place = active[kept], drawn[kept], mask[kept], place[kept]
            filters, block = filters.rows(kept), block[kept]
        ids = drawn[:, None]
        mask = torch.cat([mask, mask.new_ones((len(live), 1))], 1)
        place = place[:, -1:] + 1


def statistics(logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """What a trajectory keeps of `[B, V]` logits and the `[B]` tokens that followed, `[B]` each.

    All at temperature 1 and in nats: entropy, argmax and its probability, log-probability of the
    token, and KL(uniform || policy) = -log V - mean_v log p(v), the self-certainty of Kang et al.
    (2025), where a token counts as no rarer than float32 can tell.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probabilities = wide.log_softmax(-1)
    top, argmax = log_probabilities.max(-1)
    entropy = torch.special.entr(log_probabilities.exp()).sum(-1)
    mean = log_probabilities.clamp_min(_RAREST).mean(-1)
    return {
        "entropy": entropy,
        "argmax": argmax,
        "top_probability": top.exp(),
        "log_probability": log_probabilities.gather(-1, tokens[:, None])[:, 0],
        "certainty": -math.log(logits.shape[-1]) - mean,
    }


def _trajectory(
    policy: Policy, row: _Row, known: dict[str, list], states: Tensor | None
) -> Trajectory:
    """Join what the prefix already knew with what was generated after it."""
    prefix, request = row.request.prefix, row.request
    generated = len(row.tokens) - row.given
    if states is not None:
        states = states[:generated].clone()  # not a view, which would keep the whole batch alive
    columns = {name: tuple(known.get(name, ())[:generated]) for name in COLUMNS}
    if prefix is not None and row.given:
        columns = {
            name: getattr(prefix, name)[: row.given] + values for name, values in columns.items()
        }
        if request.token is not None:
            columns["log_probability"] = (
                *prefix.log_probability[: request.keep],
                _forced(policy, request),
                *columns["log_probability"][row.given :],
            )
        before = prefix.states[: row.given]
        states = before if states is None else torch.cat([before, states])
    context = len(request.problem.prompt) + row.given
    cost = Ledger()
    if generated:
        cost = Ledger(
            generated_tokens=generated,
            prefills=1,
            prefill_tokens=context,
            flops=forward_flops(policy.parameters, context + generated - 1),
        )
    assert row.stop is not None
    return Trajectory(
        tokens=tuple(row.tokens),
        text=row.text,
        scored=row.scored,
        stop=row.stop,
        key=request.key,
        states=states,
        cost=cost,
        **columns,
    )


def _forced(policy: Policy, request: Generate) -> float:
    """Log-probability of the token that takes the place of the prefix's own."""
    assert request.prefix is not None and request.token is not None
    logits = policy.head(request.prefix.states[request.keep : request.keep + 1])
    token = torch.tensor([request.token], device=logits.device)
    return float(statistics(logits, token)["log_probability"])
