"""Temperature, top-k, top-p and the inverse-CDF draw, batched with one setting per row.

The filters follow transformers (temperature, then top-k, then top-p). The draw walks the
vocabulary in id order, so a token is a pure function of the distribution and one uniform number.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nabla_eval.options import Sampling

_HEAD = 256  # most likely tokens that are looked at before all are
_BLOCK = 512  # tokens that are summed before a draw looks at single ones
_LARGEST = 1 - 2.0**-53  # of the numbers below 1


class Filter:
    """Sampling options of B rows as columns on the device."""

    def __init__(self, settings: Sequence[Sampling], device: torch.device) -> None:
        column = lambda values, dtype: torch.tensor(values, dtype=dtype, device=device)[:, None]  # noqa: E731
        self.greedy = column([s.temperature == 0 for s in settings], torch.bool)
        self.temperature = column([s.temperature or 1.0 for s in settings], torch.float64)
        self.top_p = column([s.top_p for s in settings], torch.float64)
        self.top_k = column([s.top_k for s in settings], torch.int64)
        # Known on the host, so that what no row asks for costs nothing.
        self.greedily = any(s.temperature == 0 for s in settings)
        self.filters = any(s.filters for s in settings)
        self.largest = max((s.top_k for s in settings), default=0)

    def rows(self, keep: Int[Tensor, " kept"]) -> Filter:
        """The options of some rows."""
        other = copy(self)
        for name in ("greedy", "temperature", "top_p", "top_k"):
            setattr(other, name, getattr(self, name)[keep])
        return other

    def distribution(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Probabilities that the rows sample from; at temperature 0 all mass is on the argmax."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        probabilities = (wide / self.temperature.to(wide.dtype)).softmax(-1)
        if self.filters:
            probabilities = self._filtered(probabilities)
        if self.greedily:
            best = logits.argmax(-1, keepdim=True)
            onehot = torch.zeros_like(probabilities).scatter_(-1, best, 1.0)
            probabilities = torch.where(self.greedy, onehot, probabilities)
        return probabilities

    def _filtered(self, p: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Keep each row's most likely tokens, of equal ones the first.

        How many is known from the most likely few, where these hold enough of the mass; else more
        are put in order, and at last all. The host asks whether they do, and about ties.
        """
        words = p.shape[-1]
        size = min(words, max(_HEAD, 1 + self.largest))
        top, count, mass = self._kept(p, size)
        free = (self.top_k == 0) & (self.top_p >= 1)
        while size < words and bool(((count == size) & ~free).any()):
            size = min(words, 16 * size)
            top, count, mass = self._kept(p, size)
        least = top.gather(-1, count - 1)
        kept = p >= least
        # A token that is left out may be as likely as the last one that is kept.
        beyond = top.gather(-1, count.clamp(max=size - 1))
        if bool(((beyond == least) & (count < size)).any()):
            equal = p == least
            room = count - (p > least).sum(-1, keepdim=True)
            kept = (p > least) | (equal & (equal.cumsum(-1) <= room))
        return p.masked_fill(~(kept | free), 0).div_(mass.masked_fill(free, 1).to(p.dtype))

    def _kept(self, p: Float[Tensor, "B V"], size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the `size` most likely tokens: probabilities, how many are kept, and their mass.

        As many as were looked at are kept where it takes more than these to tell.
        """
        top = p.topk(size).values
        rank = torch.arange(size, device=p.device)
        out = (self.top_k > 0) & (rank >= self.top_k)
        cumulative = top.masked_fill(out, 0).cumsum(-1, dtype=torch.float64)
        total = torch.where(self.top_k > 0, cumulative[:, -1:], 1.0)
        out |= ((cumulative - top) / total >= self.top_p) & (self.top_p < 1)
        out[:, 0] = False
        count = size - out.sum(-1, keepdim=True)
        return top, count, cumulative.gather(-1, count - 1)


def draw(probabilities: Float[Tensor, "B V"], uniform: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """First token whose cumulative probability, in id order, exceeds the uniform number."""
    return draws(probabilities, uniform[:, None])[:, 0]


def draws(probabilities: Float[Tensor, "B V"], uniform: Float[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    """Several draws from each row, one per uniform number.

    A draw finds its block of tokens first, and then looks into that one alone. Of a row that is no
    distribution any token is drawn, and whoever draws must know.
    """
    number, words = uniform.double().contiguous(), probabilities.shape[-1]
    if words <= _BLOCK:
        return _search(_cumulative(probabilities), number)
    whole = words // _BLOCK * _BLOCK
    blocks = probabilities[:, :whole].unflatten(-1, (-1, _BLOCK)).sum(-1, dtype=torch.float64)
    if whole < words:
        rest = probabilities[:, whole:].sum(-1, keepdim=True, dtype=torch.float64)
        blocks = torch.cat([blocks, rest], -1)
    edges = _cumulative(blocks)
    block = _search(edges, number)
    tokens = block[..., None] * _BLOCK + torch.arange(_BLOCK, device=block.device)
    inside = probabilities.gather(-1, tokens.clamp(max=words - 1).flatten(1)).view(tokens.shape)
    inside = inside.masked_fill(tokens >= words, 0)
    edges = torch.nn.functional.pad(edges, (1, 0))
    before, after = edges.gather(-1, block), edges.gather(-1, block + 1)
    within = ((number - before) / (after - before)).clamp_(0, _LARGEST)
    found = block * _BLOCK + _search(_cumulative(inside), within[..., None])[..., 0]
    return found.clamp_(max=words - 1)


def _cumulative(weights: Float[Tensor, "*B K"]) -> Float[Tensor, "*B K"]:
    """Cumulative shares, in float64: over 150,000 tokens float32 sums are off by a rare token.

    Divided by the total every entry from the last possible one on is exactly 1, so that a number
    below 1 never picks what has no weight.
    """
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    return cumulative.div_(cumulative[..., -1:].clone())


def _search(shares: Float[Tensor, "*B K"], number: Float[Tensor, "*B S"]) -> Int[Tensor, "*B S"]:
    """Index of the first cumulative share above the number."""
    found = torch.searchsorted(shares, number, right=True)
    return found.clamp_(max=shares.shape[-1] - 1)
