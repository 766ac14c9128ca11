"""Temperature, top-k, top-p and the inverse-CDF draw, batched with one setting per row.

The filters follow transformers (temperature, then top-k, then top-p). The draw walks the
vocabulary in id order, so a token is a pure function of the distribution and one uniform number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nabla_eval.options import Sampling


class Filter:
    """Sampling options of B rows as columns on the device."""

    def __init__(self, settings: Sequence[Sampling], device: torch.device) -> None:
        column = lambda values, dtype: torch.tensor(values, dtype=dtype, device=device)[:, None]  # noqa: E731
        self.greedy = column([s.temperature == 0 for s in settings], torch.bool)
        self.temperature = column([s.temperature or 1.0 for s in settings], torch.float64)
        self.top_p = column([s.top_p for s in settings], torch.float64)
        self.top_k = column([s.top_k for s in settings], torch.int64)
        # Known on the host, so that rows without filters cost no sort and no synchronisation.
        self.filters = any(s.top_p < 1 or s.top_k > 0 for s in settings)

    def rows(self, keep: Int[Tensor, " kept"]) -> Filter:
        """The options of some rows."""
        other = object.__new__(Filter)
        other.greedy, other.temperature = self.greedy[keep], self.temperature[keep]
        other.top_p, other.top_k, other.filters = self.top_p[keep], self.top_k[keep], self.filters
        return other

    def distribution(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Probabilities that the rows sample from; at temperature 0 all mass is on the argmax."""
        best = logits.argmax(-1, keepdim=True)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        wide = wide / self.temperature.to(wide.dtype)
        if self.filters:
            wide = self._filtered(wide)
        probabilities = wide.softmax(-1)
        onehot = torch.zeros_like(probabilities).scatter_(-1, best, 1.0)
        return torch.where(self.greedy, onehot, probabilities)

    def _filtered(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        ordered, order = torch.sort(logits, dim=-1, descending=True, stable=True)
        rank = torch.arange(logits.shape[-1], device=logits.device)
        out = (self.top_k > 0) & (rank >= self.top_k)
        mass = ordered.masked_fill(out, -torch.inf).softmax(-1)
        before = mass.cumsum(-1, dtype=torch.float64) - mass
        out |= (before >= self.top_p) & (self.top_p < 1)
        out[:, 0] = False
        return logits.masked_fill(torch.zeros_like(out).scatter_(-1, order, out), -torch.inf)


def draw(probabilities: Float[Tensor, "B V"], uniform: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """First token whose cumulative probability, in id order, exceeds the uniform number."""
    return draws(probabilities, uniform[:, None])[:, 0]


def draws(probabilities: Float[Tensor, "B V"], uniform: Float[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    """Several draws from each row, one per uniform number.

    Cumulated in float64: over 150,000 tokens float32 sums are off by more than a rare token.
    Dividing by the total makes every entry from the last possible token on exactly 1, so that a
    number below 1 never picks a token of probability zero. Of a row that is no distribution the
    last token is drawn, and whoever draws must know.
    """
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    cumulative /= cumulative[:, -1:].clone()
    drawn = torch.searchsorted(cumulative, uniform.double().contiguous(), right=True)
    return drawn.clamp_(max=cumulative.shape[-1] - 1)
