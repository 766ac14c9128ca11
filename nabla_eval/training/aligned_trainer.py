"""TRL's RewardTrainer with the alignment term. Importing this loads TRL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, logsigmoid
from trl import RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

COLUMNS = ("place", "right", "point_ids", "point_weights")


def collator(pad: int) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """TRL's batches (chosen rows, then rejected ones) and the columns of the term."""
    plain = DataCollatorForPreference(pad_token_id=pad)

    def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        width = max(len(example["point_ids"]) for example in examples)

        def filled(name: str, blank: float) -> Tensor:
            rows = [example[name] for example in examples]
            return torch.tensor([[*row, *[blank] * (width - len(row))] for row in rows])

        return {
            **plain(list(examples)),
            "place": torch.tensor([example["place"] for example in examples]),
            "right": torch.tensor([example["right"] for example in examples]),
            "point_ids": filled("point_ids", 0).long(),
            "point_weights": filled("point_weights", 0.0),
        }

    return collate


class AlignedRewardTrainer(RewardTrainer):
    """Preference loss plus `alignment_weight` times the cross-entropy of G with the right token."""

    alignment_weight = 0.5
    after: tuple[int, ...] = ()  # what is read behind a prefix before its score

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        known: Any = self._signature_columns
        self._signature_columns = known + [name for name in COLUMNS if name not in known]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of one batch, in nats."""
        own = {name: inputs.pop(name) for name in COLUMNS}
        loss, outputs = super().compute_loss(_at_last_token(model), inputs, return_outputs=True)
        rejected = inputs["input_ids"].chunk(2)[1]
        if self.alignment_weight > 0:
            right = own.pop("right")
            table = _table(self.accelerator.unwrap_model(model).get_input_embeddings())
            values = linearised(model, table, rejected, after=self.after, **own)
            term = cross_entropy(values, right)
            hits = (values.argmax(dim=-1) == right).float().mean()
            self._metrics["train"]["alignment"].append(term.item())
            self._metrics["train"]["right_first"].append(hits.item())
            loss = loss + self.alignment_weight * term
        return (loss, outputs) if return_outputs else loss


def aligned_trainer(
    weight: float, after: tuple[int, ...], **arguments: Any
) -> AlignedRewardTrainer:
    """The trainer with this weight of the term; `arguments` are RewardTrainer's."""
    trainer = AlignedRewardTrainer(**arguments)
    trainer.alignment_weight, trainer.after = weight, after
    return trainer


def _at_last_token(model: Any) -> Callable[..., Any]:
    """The model with one score [B, 1] per row, also where it scores every token."""

    def scored(**inputs: Any) -> Any:
        outputs = model(**inputs)
        if outputs.logits.dim() == 2:
            return outputs
        last = inputs["attention_mask"].sum(dim=1) - 1
        rows = torch.arange(len(last), device=last.device)
        return SimpleNamespace(logits=outputs.logits[rows, last])

    return scored


def _table(lookup: Any) -> Tensor:
    """Input embeddings [V, D] as the model reads them: Gemma 3 scales inside the lookup."""
    scale = getattr(lookup, "embed_scale", None)
    weight: Tensor = lookup.weight
    return weight if scale is None else weight * scale


def linearised(
    model: Any,
    table: Tensor,
    ids: Tensor,
    place: Tensor,
    point_ids: Tensor,
    point_weights: Tensor,
    after: tuple[int, ...] = (),
) -> Tensor:
    """G [B, V] in nats, differentiable with respect to the weights.

    `ids` [B, L]; at `place` [B] stands the mean embedding of `point_ids` [B, K] with
    `point_weights` [B, K]. The score is that of the tokens up to the place and of `after`, read at
    the last one.
    """
    inner = (point_weights.to(table)[:, :, None] * table[point_ids]).sum(dim=1)
    if not inner.requires_grad:  # adapters leave the table as it is
        inner.requires_grad_()
    scores = torch.empty(len(ids), dtype=table.dtype, device=table.device)
    # No fused attention kernel has a second derivative.
    with sdpa_kernel(SDPBackend.MATH):
        for rows, length in _equally_long(place):
            end = table[list(after)].expand(len(rows), -1, -1)
            embeddings = torch.cat([table[ids[rows, :length]], inner[rows][:, None], end], dim=1)
            logits = model(inputs_embeds=embeddings, use_cache=False).logits
            last = logits if logits.dim() == 2 else logits[:, -1]
            scores = scores.index_put((rows,), last[:, 0].to(scores))
        (slope,) = torch.autograd.grad(logsigmoid(scores).sum(), inner, create_graph=True)
    return slope @ table.T


def _equally_long(place: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows by their place: what is equally long needs no padding, whatever the model pools."""
    for length in place.unique().tolist():
        yield (place == length).nonzero()[:, 0], int(length)
