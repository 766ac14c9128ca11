"""Prefix-gradient methods for one problem, written to be read: the specification of `handlers.py`.

DESIGN 3.8 with loops, no KV cache and no batch: every score encodes its whole prefix again, every
token is a one-hot row that is multiplied with a table, and autograd goes through that product. The
fast engine must return the same tokens, choices and calls (float64), for fewer forwarded tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nabla_eval.cost.ledger import Ledger
from nabla_eval.engine import naive
from nabla_eval.engine.naive import answer_start, ended
from nabla_eval.experimental.guided import ExactTopK, PrefixGradient, SequentialVerify
from nabla_eval.experimental.locate_repair import LocateRepair
from nabla_eval.models.pair import Pair
from nabla_eval.outcome import Candidate, Choice, Outcome, Verdict
from nabla_eval.protocol import Problem

Guided = PrefixGradient | SequentialVerify | ExactTopK


def closing(pair: Pair, problem: Problem, y: list[int]) -> set[int]:
    """Tokens that end the response if they follow: end tokens, and stop strings of one token."""
    policy, found = pair.policy, set(pair.policy.end_ids)
    if answer_start(problem, policy.decode(y, special=True)):
        for stop in problem.stop:
            ids = policy.encode(stop, special=False)
            if len(ids) == 1 and policy.decode(ids, special=True) == stop:
                found |= {*ids}
    return found


def rows(pair: Pair, problem: Problem, y: list[int]) -> Tensor:
    """E_r in the policy's order; a token that ends a response is what the template ends with."""
    table = pair.judge.embedding.clone()
    for token in closing(pair, problem, y):
        if problem.affixes.after and token < len(table):
            table[token] = pair.judge.table[problem.affixes.after[0]]
    return table


def known(pair: Pair, problem: Problem, y: list[int], token: int) -> bool:
    """Return whether the reward model can be shown a token after y."""
    if token in closing(pair, problem, y) and problem.affixes.after:
        return True
    return pair.judge.known is None or bool(pair.judge.known[token])


def prefix_score(pair: Pair, problem: Problem, y: list[int], last: Tensor | None = None) -> Tensor:
    """s(y_<=t); with `last`, a row of weights over the vocabulary, it stands behind y.

    A process reward speaks at the last token, an outcome reward at the template's end after it.
    """
    judge = pair.judge
    closed = last is None and bool(y) and y[-1] in closing(pair, problem, y[:-1])
    shown = y[:-1] if closed else y
    parts = [judge.table[list(problem.affixes.before)], judge.embedding[shown]]
    if last is not None:
        parts.append((last @ rows(pair, problem, y))[None])
    if closed or not judge.process:
        parts.append(judge.table[list(problem.affixes.after)])
    inputs = torch.cat(parts)
    return judge.head(judge.base(inputs_embeds=inputs[None]).last_hidden_state)[0, -1]


def g_of(pair: Pair, problem: Problem, y: list[int], p: Tensor, kind: str) -> Tensor:
    """G_v = d log sigmoid(s(y_<t, e)) / dw_v at e = sum_v w_v e_v, with w = p or its argmax."""
    mask = torch.tensor([known(pair, problem, y, token) for token in range(len(p))])
    p = torch.where(mask, p, 0.0)
    hard = torch.nn.functional.one_hot(p.argmax(), len(p)).to(p.dtype)
    weights = (p / p.sum() if kind == "soft" else hard).clone().requires_grad_()
    value = torch.nn.functional.logsigmoid(prefix_score(pair, problem, y, weights))
    (gradient,) = torch.autograd.grad(value, weights)
    return torch.where(mask, gradient, -torch.inf)


def order(
    pair: Pair,
    problem: Problem,
    y: list[int],
    values: Tensor,
    keep: int,
    log_p: Tensor,
    floor: float,
) -> list[int]:
    """The first tokens that the reward model can be shown, by falling value; ties by id.

    Without those whose probability is below the floor, but for the likeliest.
    """
    of, p = values.tolist(), log_p.exp().tolist()
    shown = [token for token in range(len(of)) if known(pair, problem, y, token)]
    first = max(shown, key=lambda token: p[token])
    allowed = [token for token in shown if p[token] >= floor or token == first]
    allowed = [token for token in allowed if of[token] > -torch.inf]
    return sorted(allowed, key=lambda token: -of[token])[:keep]


@torch.no_grad()
def exact(pair: Pair, problem: Problem, y: list[int], token: int, ledger: Ledger) -> float:
    """s(y_<t, v), a call."""
    ledger.prefix_scorings += 1
    return float(prefix_score(pair, problem, [*y, token]))


def guided(pair: Pair, problem: Problem, config: Guided) -> Outcome:
    """Greedy decoding in which a token of at most `confidence` is chosen with the reward model."""
    y: list[int] = []
    ledger = Ledger()
    choices: list[Choice] = []
    while True:
        z = naive.drawable(pair, problem, y)
        ledger.generated_tokens += 1
        log_p = torch.log_softmax(z, -1)
        token = int(z.argmax())
        if float(log_p.max().exp()) <= config.confidence:
            token, choice = _choose(pair, problem, config, y, log_p, ledger)
            choices.append(choice(len(choices)))
        y.append(token)
        end = ended(pair, problem, y)
        if end is not None:
            stop, _, text = end
            return Outcome(text, tuple(y), stop, choices=tuple(choices), ledger=ledger)


def _choose(pair, problem, config, y, log_p, ledger):  # type: ignore[no-untyped-def]
    """The token, and its record without an index."""
    own, by = int(log_p.argmax()), "score"
    scores: dict[int, float] = {}
    g: Tensor | None = None
    ranked = order(pair, problem, y, log_p, len(log_p), log_p, config.min_probability)
    if isinstance(config, SequentialVerify):
        for token in ranked[: config.tries]:
            scores[token] = exact(pair, problem, y, token, ledger)
            if scores[token] > config.good_score:
                break
        good = [token for token in scores if scores[token] > config.good_score]
        chosen = good[0] if good else max(scores, key=lambda token: scores[token])
    elif isinstance(config, ExactTopK):
        for token in ranked[: config.candidates]:
            scores[token] = exact(pair, problem, y, token, ledger)
        chosen = max(scores, key=lambda token: _tilted(log_p, token, scores[token], config.beta))
    else:
        lazy = config.guidance == "lazy"
        if lazy:
            scores[ranked[0]] = exact(pair, problem, y, ranked[0], ledger)
        chosen = own
        if not lazy or ranked[0] != own or scores[own] <= config.lazy_threshold:
            ledger.prefix_gradients += 1
            g, by = g_of(pair, problem, y, log_p.exp(), config.linearisation), "gradient"
            tilted = log_p + config.beta * g
            chosen = order(pair, problem, y, tilted, 1, log_p, config.min_probability)[0]
    of = lambda values, token: None if values is None else float(values[token])  # noqa: E731
    return chosen, lambda index: Choice(
        index, len(y), by, float(log_p.max().exp()), own, chosen,
        float(log_p[own]), float(log_p[chosen]), of(g, own), of(g, chosen),
        scores.get(own), scores.get(chosen) if by == "score" or chosen == own else None,
        len(scores),
    )  # fmt: skip


def _tilted(log_p: Tensor, token: int, score: float, beta: float) -> float:
    """log pi + beta log sigmoid(s)."""
    value = torch.nn.functional.logsigmoid(torch.tensor(score, dtype=log_p.dtype))
    return float(log_p[token] + beta * value)


def locate_repair(pair: Pair, problem: Problem, config: LocateRepair) -> Outcome:
    """Replace the token of the first bad prefix score, roll out, keep what has more reward."""
    ledger, key = Ledger(), problem.key
    tried: dict[tuple[int, ...], list[int]] = {}
    candidates: list[Candidate] = []
    current = naive.rollout(pair, problem, config.sampling, key / "draft" / 0)
    ledger.generated_tokens += len(current.y)
    scores, reward = _judge(pair, problem, current, ledger)
    while 1 + len(candidates) < config.n:
        if config.stop_reward is not None and reward >= config.stop_reward:
            break
        ended = [reward] if len(current.scored) < len(current.y) else []
        bad = [i for i, s in enumerate([*scores, *ended]) if s < config.error_below]
        if not bad:
            break
        at, prefix = bad[0], tuple(current.y[: bad[0]])
        if prefix not in tried:
            tried[prefix] = _options(pair, problem, config, current, at, ledger)
        left = [token for token in tried[prefix] if token != current.y[at]]
        if not left:
            break
        tried[prefix] = left[1:]
        begun = naive.Sequence([*prefix, left[0]], current.z[: at + 1], "length", current.key)
        stream = key / "repair" / (1 + len(candidates))
        rival = naive.rollout(pair, problem, config.sampling, stream, begun)
        ledger.generated_tokens += len(rival.y) - (at + 1)
        new_scores, value = _judge(pair, problem, rival, ledger)
        verdict: Verdict = "accepted" if value > reward else "rejected"
        p = torch.softmax(current.z[at], -1)
        candidates.append(
            Candidate(
                len(candidates), 0, at, float(-(p * torch.log(p)).nansum()), float(p.max()), None,
                current.y[at], left[0], reward, value, "tie" if value == reward else verdict,
                tuple(rival.y), rival.text, rival.stop,
            )
        )  # fmt: skip
        if value > reward:
            current, scores, reward = rival, new_scores, value
    return Outcome(
        current.text, tuple(current.y), current.stop, reward, candidates=tuple(candidates),
        ledger=ledger,
    )  # fmt: skip


def _options(pair, problem, config, current, at, ledger):  # type: ignore[no-untyped-def]
    """The tokens that may take the place of the one at a position, best first."""
    prefix, log_p = current.y[:at], torch.log_softmax(current.z[at], -1)
    k, own = config.candidates, current.y[at]
    values, keep = log_p, k + 1
    if config.chooser == "prefix_gradient":
        ledger.prefix_gradients += 1
        values = log_p + config.beta * g_of(
            pair, problem, prefix, log_p.exp(), config.linearisation
        )
    elif config.chooser == "exact_top_k":
        values, keep = torch.full_like(log_p, -torch.inf), k
        for token in order(pair, problem, prefix, log_p, k, log_p, config.min_probability):
            score = exact(pair, problem, prefix, token, ledger)
            values[token] = _tilted(log_p, token, score, config.beta)
    found = order(pair, problem, prefix, values, keep, log_p, config.min_probability)
    best = [v for v in found if values[v] > -torch.inf]
    return [token for token in best if token != own][:k]


@torch.no_grad()
def _judge(pair, problem, sequence, ledger):  # type: ignore[no-untyped-def]
    """Prefix scores of what is scored of a response, and its reward."""
    ledger.scorings += 1
    y, before = naive.one_hot(sequence.scored, pair.policy.vocabulary), problem.affixes.before
    scores = naive.scores_of(pair, problem, y).tolist()
    return scores[len(before) :][: len(y)], scores[-1]
