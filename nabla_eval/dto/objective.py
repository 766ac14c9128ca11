"""L(y) and its gradient with respect to every one-hot token, from one pass per model.

L(y) = -lam r(y|x) - nll_weight log pi(y|x) (Eq. 2), and by Prop. C.1 (DESIGN 3.1)

    dL/dy_l = -nll_weight log pi(.|y_<l, x)                        prefix term
            + E_pi . d(-nll_weight log pi)/de_l                     postfix term, through attention
            + E_r  . d(-lam r)/de'_l                                reward term

with e, e' the two models' input embeddings of y. An ordinary forward and backward pass to the
embeddings thus serves all positions; rows of length V are formed only where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nabla_eval.models.pair import Pair, Policy, Reward
from nabla_eval.models.prefix import forward
from nabla_eval.options import Objective
from nabla_eval.protocol import TemplateAffixes

_ELEMENTS = 2**25  # of rows x V formed at once


@dataclass(frozen=True)
class Site:
    """One sequence: the prompt, the reward model's affixes, the response and how much is scored.

    What the models encoded of its beginning before, where that was kept: `policy` of prompt and
    tokens, with the states that predict these tokens and the one after them, and `reward` of the
    affixes and tokens.
    """

    prompt: tuple[int, ...]
    affixes: TemplateAffixes
    tokens: tuple[int, ...]
    scored: int
    policy: Float[Tensor, "N 2 H T Dh"] | None = field(repr=False, compare=False, default=None)
    states: Float[Tensor, "K D"] | None = field(repr=False, compare=False, default=None)
    reward: Float[Tensor, "Nr 2 Hr Tr Dhr"] | None = field(repr=False, compare=False, default=None)


@dataclass(frozen=True)
class EmbeddingGradients:
    """The result of one pass through both models for the last K tokens of a sequence."""

    first: int  # position of the first of them
    hidden: Float[Tensor, "K D"]  # the policy's states that predict each token
    policy: Float[Tensor, "K D"]  # d(-nll_weight log pi)/de
    reward: Float[Tensor, "K Dr"]  # d(-lam r)/de', 0 at tokens that are not scored
    value: float  # r(y|x)

    def first_row(self) -> EmbeddingGradients:
        """Return the gradient at `first` alone, without holding on to the rest."""
        rows = {name: getattr(self, name)[:1].clone() for name in ("hidden", "policy", "reward")}
        return replace(self, **rows)

    def spans(self, rows: Sequence[int]) -> list[slice]:
        """Where positions of the sequence stand in the tensors."""
        if rows and min(rows) < self.first:
            raise ValueError(
                f"The gradient is known from position {self.first} on, and {min(rows)} was asked "
                "for. Name it in the rows of Differentiate."
            )
        return spans([row - self.first for row in rows])


def spans(rows: Sequence[int]) -> list[slice]:
    """Rows as slices of neighbours, in their order: views, where a list would go to the device."""
    found: list[slice] = []
    for row in rows:
        if found and found[-1].stop == row:
            found[-1] = slice(found[-1].start, row + 1)
        else:
            found.append(slice(row, row + 1))
    return found


def widen(tensor: Tensor) -> Tensor:
    """At least float32, in which softmaxes and long sums are taken."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def differentiate(
    pair: Pair, sites: Sequence[Site], objective: Objective, firsts: Sequence[int] | None = None
) -> list[EmbeddingGradients]:
    """Gradient of L at several sequences, as one batch per model.

    `firsts` are the first positions whose gradient is wanted, 0 by default: nothing that belongs to
    earlier ones is kept for the backward pass.
    """
    starts = [0] * len(sites) if firsts is None else list(firsts)
    with torch.inference_mode(False), torch.enable_grad():
        policy = _policy_pass(pair.policy, sites, starts, objective.nll_weight)
        reward = reward_pass(pair.judge, sites, starts, objective)
    return [EmbeddingGradients(*own) for own in zip(starts, *policy, *reward, strict=True)]


def _policy_pass(
    policy: Policy, sites: Sequence[Site], firsts: Sequence[int], weight: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden states and embedding gradients of -weight log pi(y|x), per sequence."""
    inputs = [site.prompt + site.tokens[:-1] for site in sites]  # no token follows the last one
    starts = [len(site.prompt) + first for site, first in zip(sites, firsts, strict=True)]
    counts = [len(row) - start for row, start in zip(inputs, starts, strict=True)]
    wanted = weight != 0 and any(counts)
    with torch.set_grad_enabled(wanted):
        run = forward(
            policy.base,
            policy.embedding.__getitem__,
            inputs,
            starts,
            policy.device,
            grad=wanted,
            known=[site.policy for site in sites],
        )
    # The state that predicts the first token lies before all that is differentiated.
    tails = [run.tail(i, count) for i, count in enumerate(counts)]
    hidden = []
    for i, (site, first, tail) in enumerate(zip(sites, firsts, tails, strict=True)):
        before = run.before(i, counts[i])
        if before is None:
            assert site.states is not None, "keys and values come with states"
            before = site.states[first : first + 1]
        hidden.append(torch.cat([before, tail]).detach())
    gradient = torch.zeros_like(run.embeds)
    if wanted:
        flat = torch.cat(tails)
        tokens = [token for s, f in zip(sites, firsts, strict=True) for token in s.tokens[f + 1 :]]
        outer = -weight * _log_likelihood_gradient(policy, flat.detach(), _ids(tokens, flat))
        (gradient,) = torch.autograd.grad(flat, run.embeds, outer.to(flat.dtype))
    width = gradient.shape[1]
    last = gradient.new_zeros(1, gradient.shape[-1])
    return hidden, [torch.cat([gradient[i, width - n :], last]) for i, n in enumerate(counts)]


def _log_likelihood_gradient(
    policy: Policy, hidden: Float[Tensor, "N D"], tokens: Int[Tensor, " N"]
) -> Float[Tensor, "N D"]:
    """d sum_i log pi(y_i) / d hidden_i, in chunks so that N x V is never held at once."""
    chunk = max(1, _ELEMENTS // policy.vocabulary)
    gradients = []
    for states, own in zip(hidden.split(chunk), tokens.split(chunk), strict=True):
        leaf = states.detach().requires_grad_()
        chosen = widen(policy.head(leaf)).log_softmax(-1).gather(-1, own[:, None]).sum()
        gradients.append(torch.autograd.grad(chosen, leaf)[0])
    return torch.cat(gradients)


def _ids(values: Sequence[int], like: Tensor) -> Int[Tensor, " N"]:
    return torch.tensor(values, dtype=torch.long, device=like.device)


def reward_rows(reward: Reward, sites: Sequence[Site]) -> list[tuple[int, ...]]:
    """Template and scored tokens of each sequence, as ids for `embed_reward`."""
    words = reward.embedding.shape[0]
    around = {
        affixes: [
            tuple(words + token for token in part) for part in (affixes.before, affixes.after)
        ]
        for affixes in {site.affixes for site in sites}
    }
    parts = [(around[site.affixes], site.tokens[: site.scored]) for site in sites]
    return [before + tokens + after for (before, after), tokens in parts]


def embed_reward(reward: Reward, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T Dr"]:
    """Embed the policy's tokens, and from V on the reward model's own, of its template."""
    words = reward.embedding.shape[0]
    response = reward.embedding[ids.clamp(max=words - 1)]
    return torch.where((ids < words)[..., None], response, reward.table[(ids - words).clamp(min=0)])


def reward_pass(
    reward: Reward,
    sites: Sequence[Site],
    firsts: Sequence[int],
    objective: Objective,
    mixtures: Sequence[tuple[int, Tensor]] = (),
) -> tuple[list[Tensor], list[float]]:
    """Embedding gradients of -lam r at the response's tokens and r itself, per sequence.

    `mixtures` has, for each sequence, a position and the embedding that stands there in place of
    its token's; empty where every token is hard. Needs gradients to be enabled.
    """
    rows = reward_rows(reward, sites)
    embed = partial(embed_reward, reward)
    if mixtures:
        beyond = reward.embedding.shape[0] + reward.table.shape[0]  # ids that no token has
        rows = [
            (*row[: (at := len(site.affixes.before) + i)], beyond + j, *row[at + 1 :])
            for j, (row, site, (i, _)) in enumerate(zip(rows, sites, mixtures, strict=True))
        ]
        embed = partial(_embed_mixtures, reward, torch.stack([own for _, own in mixtures]))
    starts, spans = [], []  # where each row's graph begins; its wanted tokens, from the row's end
    for site, row, first in zip(sites, rows, firsts, strict=True):
        start = len(site.affixes.before) + min(first, site.scored)
        starts.append(min(start, len(row) - 1))
        spans.append((len(row) - start, len(site.affixes.after)))
    run = forward(
        reward.base,
        embed,
        rows,
        starts,
        reward.device,
        grad=True,
        known=[site.reward for site in sites],
    )
    scores = widen(reward.head(run.states))
    width = scores.shape[1]
    slices = [slice(width - start, width - stop) for start, stop in spans]
    loss = -objective.lam * scores[:, -1].sum()
    if objective.reward_gradient == "process":
        ends = [[0.0] * width for _ in sites]
        for own, site, span in zip(ends, sites, slices, strict=True):
            own[span] = step_ends(reward, site)[site.scored - (span.stop - span.start) :]
        weights = torch.tensor(ends, dtype=scores.dtype, device=scores.device)
        loss = loss - objective.lam * objective.process_weight * (weights * scores).sum()
    (gradient,) = torch.autograd.grad(loss, run.embeds)
    gradients = [
        torch.nn.functional.pad(gradient[i, span], (0, 0, 0, len(s.tokens) - max(f, s.scored)))
        for i, (s, f, span) in enumerate(zip(sites, firsts, slices, strict=True))
    ]
    return gradients, scores[:, -1].tolist()


def _embed_mixtures(reward: Reward, mixtures: Float[Tensor, "J Dr"], ids: Tensor) -> Tensor:
    """Embed ids, and from the end of both vocabularies on the mixtures."""
    beyond = reward.embedding.shape[0] + reward.table.shape[0]
    plain = embed_reward(reward, ids.clamp(max=beyond - 1))
    return torch.where((ids >= beyond)[..., None], mixtures[(ids - beyond).clamp(min=0)], plain)


def step_ends(reward: Reward, site: Site) -> list[float]:
    """1 at the scored tokens after which a process reward gives a score, else 0."""
    tokens = site.tokens[: site.scored]
    ends = [True] * len(tokens) if reward.ends is None else reward.ends(tokens)
    return [float(end) for end in ends]


def row_gradient(
    pair: Pair, backward: EmbeddingGradients, rows: Sequence[int], objective: Objective
) -> Float[Tensor, "R V"]:
    """dL/dy at some positions of one sequence (Prop. C.1): the three terms, summed."""
    return row_gradients(pair, [(backward, rows)], objective)


@torch.no_grad()
def row_gradients(
    pair: Pair,
    parts: Sequence[tuple[EmbeddingGradients, Sequence[int]]],
    objective: Objective,
    logits: Float[Tensor, "R V"] | None = None,
) -> Float[Tensor, "R V"]:
    """dL/dy at some positions of several sequences, one sequence after another.

    `logits` are the policy's there, where they are known; else they are formed here.
    """
    policy, reward = pair.policy, pair.judge
    chosen = [(backward, span) for backward, rows in parts for span in backward.spans(rows)]
    own = torch.cat([b.policy[span] for b, span in chosen])
    outcome = torch.cat([b.reward[span] for b, span in chosen])
    hidden = torch.cat([b.hidden[span] for b, span in chosen])
    size = max(1, _ELEMENTS // policy.vocabulary)
    gradient = widen(own).new_empty(len(own), policy.vocabulary)
    for start in range(0, len(own), size):
        part = slice(start, start + size)
        total = gradient[part].zero_()
        _add_onto(policy.embedding, own[part], total)
        _add_onto(reward.embedding, outcome[part], total)
        if objective.nll_weight:
            own_logits = widen(policy.head(hidden[part])) if logits is None else logits[part]
            prefix = own_logits.log_softmax(-1)
            # A token that the policy masks has no probability to move, hence no gradient.
            prefix.nan_to_num_(nan=torch.nan, posinf=torch.inf, neginf=0)
            total.sub_(prefix, alpha=objective.nll_weight)
    return gradient


def _add_onto(
    table: Float[Tensor, "V D"], gradient: Float[Tensor, "R D"], total: Float[Tensor, "R V"]
) -> None:
    """Add embedding gradients times the table, in at least float32, never holding a wider table."""
    rows = widen(gradient)
    if rows.dtype == table.dtype == total.dtype and table.device == total.device:
        total.addmm_(rows, table.T)
        return
    size = max(1, _ELEMENTS // table.shape[1])
    for words, part in zip(total.split(size, -1), table.split(size), strict=True):
        words += (rows @ widen(part).T).to(total.device)
