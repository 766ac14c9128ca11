"""∇-Reasoner for one problem, written to be read: the specification of the fast engine.

Algorithm 1 (decoding) and Algorithm 2 (DTO) of arXiv 2603.04948 with loops, no KV cache, no
batch, no gradient cache; one-hot matrices are multiplied and autograd does the rest. It shares
with the fast engine the keys of its random numbers and the models, and nothing else: sampling,
objective, relaxation and control flow are written again, and the optimiser is torch's. The fast
engine must return the same tokens, candidates and verdicts (float64), for fewer model calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nabla_eval.cost.ledger import Ledger
from nabla_eval.dto.optimisers import optimiser
from nabla_eval.engine.gradient import no_gradient
from nabla_eval.engine.response import no_distribution
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.models.pair import Pair, Policy
from nabla_eval.options import DTO, Objective, Sampling
from nabla_eval.outcome import Candidate, Draft, Outcome, StopReason, Verdict
from nabla_eval.protocol import Problem
from nabla_eval.randomness import Key


@dataclass
class Sequence:
    """A response y with the logits z it was drawn from, and how it ended."""

    y: list[int]
    z: list[Tensor]  # one V-vector a token
    stop: StopReason
    key: Key
    seen: int | None = None  # tokens of it that are scored; None: all but the end token
    text: str = ""
    end_token: str = "template"

    @property
    def scored(self) -> list[int]:
        """Return what the reward model sees: no stop string, and no end token unless it is kept."""
        if self.stop == "eos" and self.end_token == "kept":
            return self.y
        ended = self.seen is None and self.stop == "eos"
        return self.y[:-1] if ended else self.y[: self.seen]


def distribution(z: Tensor, sampling: Sampling) -> list[float]:
    """softmax(z / tau) with the k most likely tokens kept, then the smallest set of mass >= p."""
    if sampling.temperature == 0:
        best = int(z.argmax())
        return [1.0 if token == best else 0.0 for token in range(len(z))]
    p = torch.softmax(z / sampling.temperature, -1).tolist()
    order = sorted(range(len(p)), key=lambda token: -p[token])  # stable: ties by token id
    if sampling.top_k:
        order = order[: sampling.top_k]
    total, mass, kept = sum(p[token] for token in order), 0.0, set()
    for token in order:
        if mass / total >= sampling.top_p and sampling.top_p < 1:
            break
        kept.add(token)
        mass += p[token]
    return [p[token] / mass if token in kept else 0.0 for token in range(len(p))]


def draw(probabilities: list[float], number: float) -> int:
    """Inverse CDF: walk the vocabulary until the number is passed."""
    cumulative, last = 0.0, 0
    for token, probability in enumerate(probabilities):
        cumulative += probability
        last = token if probability > 0 else last
        if cumulative > number:
            return token
    return last


def ended(pair: Pair, problem: Problem, y: list[int]) -> tuple[StopReason, int, str] | None:
    """Return why a response ends with its last token, the tokens scored, and its text."""
    policy = pair.policy
    if y and y[-1] in policy.end_ids:
        return "eos", len(y) - 1, policy.shown(y[:-1], problem.thought)
    written = policy.decode(y, special=True)
    cuts = [
        written.find(stop, begin)
        for stop in problem.stop
        for begin in answer_start(problem, written)
    ]
    if any(cut >= 0 for cut in cuts):
        return _before(policy, problem, y, min(cut for cut in cuts if cut >= 0))
    if len(y) >= problem.max_new_tokens:
        return "length", len(y), policy.shown(y, problem.thought)
    return None


def answer_start(problem: Problem, written: str) -> list[int]:
    """Where stop strings begin to count: nowhere in a thought."""
    begin = 0 if problem.thought is None else problem.thought.answer_at(written)
    return [] if begin is None else [begin]


def _before(
    policy: Policy, problem: Problem, y: list[int], cut: int
) -> tuple[StopReason, int, str]:
    """Return what the first `cut` characters leave of a response, token by token."""
    written, text, scored, at = policy.decode(y, special=True), "", 0, 0
    for count, token in enumerate(y, start=1):
        reach = len(policy.decode(y[:count], special=True))
        special = token in policy.special_ids
        if at >= cut or (special and reach > cut):
            break
        if token not in policy.hidden(problem.thought):
            text += written[at : min(reach, cut)]
        scored, at = count, reach
    return "stop", scored, text


@torch.no_grad()
def next_logits(pair: Pair, tokens: list[int]) -> Tensor:
    """z of the token that follows, by a forward pass over everything before it."""
    states = pair.policy.base(input_ids=torch.tensor([tokens]), use_cache=False).last_hidden_state
    return pair.policy.head(states[0, -1])


def drawable(pair: Pair, problem: Problem, y: list[int]) -> Tensor:
    """z of the token after y; only minus infinity, which masks tokens, may stand among numbers."""
    z = next_logits(pair, [*problem.prompt, *y])
    if not math.isfinite(float(z.max())):
        raise no_distribution(pair.policy, problem, len(y))
    return z


def rollout(
    pair: Pair, problem: Problem, sampling: Sampling, key: Key, start: Sequence | None = None
) -> Sequence:
    """y ~ pi(.|x), token by token, from the prompt or from an unfinished sequence."""
    begun = start or Sequence([], [], "length", key)
    y, z = list(begun.y), list(begun.z)
    while True:
        if (end := ended(pair, problem, y)) is not None:
            stop, seen, text = end
            return Sequence(y, z, stop, key, seen, text, begun.end_token)
        z.append(drawable(pair, problem, y))
        y.append(draw(distribution(z[-1], sampling), key.uniform(len(y))))


def scores_of(pair: Pair, problem: Problem, y: Tensor) -> Tensor:
    """Return what the reward model says after each token of its affixes with one-hot rows y
    inside.
    """
    judge = pair.judge
    before, after = (
        judge.table[list(ids)] for ids in (problem.affixes.before, problem.affixes.after)
    )
    inputs = torch.cat([before, y @ judge.embedding, after])
    return judge.head(judge.base(inputs_embeds=inputs[None], use_cache=False).last_hidden_state)[0]


def reward_of(
    pair: Pair, problem: Problem, y: Tensor, objective: Objective | None = None
) -> Tensor:
    """r(y|x) for one-hot rows y; with reward_gradient=process, plus the weighted prefix scores."""
    judge, scores = pair.judge, scores_of(pair, problem, y)
    if objective is None or objective.reward_gradient == "final":
        return scores[-1]
    tokens = [int(row.argmax()) for row in y]
    ends = [True] * len(y) if judge.ends is None else judge.ends(tokens)
    steps = [i for i, end in enumerate(ends) if end]
    prefixes = scores[len(problem.affixes.before) :]
    return scores[-1] + objective.process_weight * sum(prefixes[i] for i in steps)


def loss(pair: Pair, problem: Problem, y: Tensor, scored: int, objective: Objective) -> Tensor:
    """Eq. 2: L(y) = -lam r(y|x) - nll_weight sum_i y_i^T log pi(.|y_<i, x)."""
    table = pair.policy.embedding
    inputs = torch.cat([table[list(problem.prompt)], y @ table])
    states = pair.policy.base(inputs_embeds=inputs[None], use_cache=False).last_hidden_state[0]
    predicting = states[len(problem.prompt) - 1 : -1]
    log_p = torch.log_softmax(pair.policy.head(predicting), -1)
    log_likelihood = (y * log_p.masked_fill(log_p == -math.inf, 0)).sum()
    reward = reward_of(pair, problem, y[:scored], objective)
    return -objective.lam * reward - objective.nll_weight * log_likelihood


def one_hot(tokens: list[int], vocabulary: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(tokens, dtype=torch.long), vocabulary).double()


def token_gradient(
    pair: Pair, problem: Problem, tokens: list[int], scored: int, objective: Objective
) -> Tensor:
    """dL/dy `[L, V]` at one-hot tokens, by autograd through the one-hot product (Prop. C.1)."""
    y = one_hot(tokens, pair.policy.vocabulary).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(pair, problem, y, scored, objective), y)
    return gradient


def anchor(sequence: Sequence, row: int, tau: float, dto: DTO) -> Tensor:
    """The constant o_i of DESIGN 3.2 for one position: none, or conditioned Gumbels."""
    scaled, own = sequence.z[row] / tau, sequence.y[row]
    offset = torch.zeros_like(scaled)
    if dto.anchor == "argmax":
        return offset
    u = (sequence.key / "anchor" / row).uniforms(0, len(scaled))
    gumbel = [-math.log(-math.log(number)) for number in u]
    top = float(torch.logsumexp(scaled, -1)) + gumbel[own]
    for j in range(len(scaled)):
        if scaled[j] == -math.inf:
            continue
        free = float(scaled[j]) + gumbel[j]
        highest = max(-top, -free)
        log_sum = highest + math.log(math.exp(-top - highest) + math.exp(-free - highest))
        offset[j] = (top if j == own else -log_sum) - float(scaled[j])
    return offset


def refine(
    pair: Pair, problem: Problem, sequence: Sequence, position: int, tau: float, dto: DTO
) -> tuple[Tensor, list[list[int]]]:
    """Algorithm 2 and 4: refined logits at a position, and the free rows' hard tokens by step.

    One gradient pass a step. It is a new one only where the hard tokens are: what caching saves.
    """
    end = position + 1 if dto.update == "first" else len(sequence.y)
    offsets = [anchor(sequence, i, tau, dto) for i in range(len(sequence.y))]
    start, head = torch.stack(sequence.z[position:end]), lambda z: z
    if dto.parameterisation == "latents":
        start = torch.stack([_state(pair, problem, sequence, i) for i in range(position, end)])
        head = pair.policy.head
    rounded = dto.logits_dtype == "bfloat16"
    free = torch.nn.Parameter(start.bfloat16() if rounded else start.clone())
    step = descent(free, dto)
    z, hard = list(sequence.z), list[list[int]]()
    for t in range(dto.steps):
        # Lines 4-5: y_i = onehot(argmax z_i) + softmax(z_i/tau) - stopgrad(softmax(z_i/tau))
        tokens = [int((z_i / tau + o_i).argmax()) for z_i, o_i in zip(z, offsets, strict=True)]
        hard.append(tokens[position:end])
        z[position:end] = head(free.to(start.dtype))
        y = list(one_hot([*sequence.y[:position], *tokens[position:]], len(z[0])))
        for i in range(position, len(z)):
            p = torch.softmax(z[i] / tau, -1)
            y[i] = y[i] + p - p.detach()
        free.grad = None
        loss(pair, problem, torch.stack(y), len(sequence.scored), dto.objective).backward()
        step(t)
        z[position:end] = head(free.detach().to(start.dtype))
    refined = head(free.detach().to(start.dtype))
    if not bool(refined.amax(-1).isfinite().all()):
        raise no_gradient(pair, problem, len(sequence.y))
    return refined[0], hard


def descent(free: Tensor, dto: DTO) -> Callable[[int], None]:
    """Return step number t of torch's optimiser, or of an optimiser that torch does not have."""
    kind = optimiser(dto.optimizer)
    own = [kind.init(row[None].detach()) for row in free]  # row by row

    def rate(t: int) -> float:
        cosine = (1 + math.cos(math.pi * t / dto.steps)) / 2
        if dto.schedule == "clipped_cosine":
            return max(dto.min_lr, dto.lr * cosine)
        return dto.min_lr + (dto.lr - dto.min_lr) * cosine

    @torch.no_grad()
    def own_step(t: int) -> None:
        factors = [torch.tensor([[number]]).double() for number in kind.factors(rate(t), t)]
        for i, gradient in enumerate(() if free.grad is None else free.grad):
            new, own[i] = kind.step(free[i : i + 1], gradient[None], own[i], *factors)
            free[i : i + 1].copy_(new)

    if kind.reference is None:
        return own_step
    solver = kind.reference([free], lr=dto.lr, weight_decay=0.0)

    def step(t: int) -> None:
        solver.param_groups[0]["lr"] = rate(t)
        solver.step()

    return step


@torch.no_grad()
def _state(pair: Pair, problem: Problem, sequence: Sequence, row: int) -> Tensor:
    tokens = [*problem.prompt, *sequence.y[:row]]
    ids = torch.tensor([tokens])
    return pair.policy.base(input_ids=ids, use_cache=False).last_hidden_state[0, -1]


def is_unsure(z: Tensor, selection: Nabla) -> bool:
    """Entropy above eps_ent (the paper), or top probability at most a bound (the released code)."""
    p = torch.softmax(z, -1)
    if selection.uncertainty == "entropy":
        return float(-(p * torch.log(p)).nansum()) > selection.entropy_threshold
    return float(p.max()) <= selection.top_probability_threshold


def selected(
    pair: Pair, problem: Problem, sequence: Sequence, position: int, config: Nabla, ledger: Ledger
) -> bool:
    """Section 3.3: is the policy unsure of this token, and does L depend on it?"""
    z, selection, tau = sequence.z[position], config, config.relaxation
    unsure = is_unsure(z, selection)
    if not unsure or selection.gradient_threshold == 0:
        return unsure
    hard = list(sequence.y)
    if config.anchor == "argmax":
        hard[position:] = [int(z_i.argmax()) for z_i in sequence.z[position:]]
    objective = config.objective
    g = token_gradient(pair, problem, hard, len(sequence.scored), objective)[position]
    ledger.gradient_passes += 1
    if selection.gradient_norm == "logits":
        p = torch.softmax(z / tau, -1)
        g = (torch.diag(p) - torch.outer(p, p)) @ g / tau
    norm, least = float(g.norm()), selection.gradient_threshold
    if not math.isfinite(norm):
        raise no_gradient(pair, problem, len(sequence.y))
    return norm > least or (selection.threshold_inclusive and norm == least)


def masked(z: Tensor, refined: Tensor, pair: Pair, config: Nabla) -> Tensor:
    """Refined logits without tokens that are too unlikely under pi or unknown to r."""
    p, left = torch.softmax(z, -1), refined.clone()
    for token in range(len(z)):
        unknown = pair.judge.known is not None and not pair.judge.known[token]
        if token != int(z.argmax()) and (p[token] < config.min_probability or unknown):
            left[token] = -math.inf
    return left


def resample(z: Tensor, refined: Tensor, pair: Pair, config: Nabla, key: Key) -> int:
    """Draw from the refined policy."""
    sampling = config.drawing
    return draw(distribution(masked(z, refined, pair, config), sampling), key.uniform())


def nabla(pair: Pair, problem: Problem, config: Nabla) -> Outcome:
    """Algorithm 1: commit tokens from left to right, revising where a revision is accepted."""
    ledger, key = Ledger(), problem.key
    candidates: list[Candidate] = []
    blank = Sequence([], [], "length", key, end_token=config.end_token)
    current = rollout(pair, problem, config.sampling, key / "draft" / 0, blank)
    first, reward = current, _score(pair, problem, current.scored, ledger)
    first_reward = reward
    ledger.generated_tokens += len(current.y)
    rollouts = 1

    def finished() -> bool:
        good = config.stop_reward is not None and reward >= config.stop_reward
        return good or rollouts >= config.n

    for sweep in range(config.passes):
        i = 0
        while i < len(current.y) and not finished():
            if not selected(pair, problem, current, i, config, ledger):
                i += 1
                continue
            refined, hard = refine(pair, problem, current, i, config.relaxation, config.dto)
            ledger.gradient_passes += len(hard)
            token = resample(current.z[i], refined, pair, config, key / "resample" / sweep / i)
            if token != current.y[i]:
                begun = replace(current, y=[*current.y[:i], token], z=current.z[: i + 1])
                rival = rollout(pair, problem, config.sampling, key / "rollout" / sweep / i, begun)
                ledger.generated_tokens += len(rival.y) - (i + 1)
                rollouts += 1
                value = _score(pair, problem, rival.scored, ledger)
                bar = reward
                if config.acceptance == "released":  # prompt ids repeated inside the response
                    bar = _score(pair, problem, [*problem.prompt, *current.scored], ledger)
                candidate = _candidate(pair, config, sweep, i, current, rival, reward, value, bar)
                candidates.append(candidate(len(candidates)))
                if value > bar:
                    current, reward = rival, value
            i += 1
        if finished():
            break
    draft = Draft(0, tuple(first.y), first.text, first.stop, first_reward)
    return Outcome(
        current.text, tuple(current.y), current.stop, reward, drafts=(draft,),
        candidates=tuple(candidates), ledger=ledger,
    )  # fmt: skip


@torch.no_grad()
def _score(pair: Pair, problem: Problem, tokens: list[int], ledger: Ledger) -> float:
    ledger.scorings += 1
    return float(reward_of(pair, problem, one_hot(tokens, pair.policy.vocabulary)))


def _candidate(pair, config, sweep, i, old, new, old_reward, new_reward, bar):  # type: ignore[no-untyped-def]
    """The record of one judged revision, without its index."""
    p = torch.softmax(old.z[i], -1)
    verdict: Verdict = "accepted" if new_reward > bar else "rejected"
    return lambda index: Candidate(
        index=index,
        sweep=sweep,
        position=i,
        entropy=float(-(p * torch.log(p)).nansum()),
        top_probability=float(p.max()),
        gradient_norm=None,
        old_token=old.y[i],
        new_token=new.y[i],
        old_reward=old_reward,
        new_reward=new_reward,
        verdict="tie" if new_reward == bar else verdict,
        tokens=tuple(new.y),
        text=new.text,
        stop=new.stop,
        compared_reward=bar if config.acceptance == "released" else None,
    )
