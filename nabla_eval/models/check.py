"""Do a policy and a reward model fit together? Everything that shows before weights are read.

Works on hub ids, checkpoints, and folders with only config and tokenizer. Each finding is one line
with a verdict; a pair cannot work where one of them failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from nabla_eval.errors import ModelError, NablaError
from nabla_eval.models import chat, memory, vocabulary
from nabla_eval.models.batch_probe import batching
from nabla_eval.models.chat import Framer, Template
from nabla_eval.models.checkpoint import (
    Checkpoint,
    Role,
    Trust,
    auto_class,
    check_weights,
    examine,
    has_weights,
    parse_device,
    parse_dtype,
)
from nabla_eval.models.heads import check_labels, context_length
from nabla_eval.models.load import end_ids_of, pair_from, policy_from
from nabla_eval.models.step_ends import checked_steps
from nabla_eval.models.vocabulary import Mode, Overlap

Verdict = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class PairUse:
    """The intended use of a pair."""

    length: int = 2048  # tokens of prompt and response
    batch: int = 1  # sequences differentiated at once
    dtype: str | None = None  # None: each checkpoint's own
    reward_dtype: str | None = None  # None: as `dtype`
    vocab: Mode = "align"
    step_delimiter: str | None = None
    template: Template = field(default_factory=Template)
    trust: Trust = field(default_factory=Trust)
    load: bool = False  # also load both models and put their parts to the test

    def dtype_of(self, found: Checkpoint) -> str | None:
        """Return what was asked for a model of the pair."""
        own = self.reward_dtype if found.source.role == "reward" else None
        return self.dtype if own is None else own


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class PairReport:
    """All findings about a pair; `overlap` and `memory` are None where they could not be had."""

    policy: str
    reward: str
    findings: tuple[Finding, ...]
    overlap: Overlap | None = None
    memory: tuple[tuple[str, memory.Memory], ...] = ()

    @property
    def ok(self) -> bool:
        """Return whether nothing failed."""
        return all(finding.verdict != "failed" for finding in self.findings)

    @property
    def bytes(self) -> int:
        """Both models on one device: their weights, and the larger of their passes."""
        weights = [part.terms[0].bytes for _, part in self.memory]
        passes = [part.bytes - part.terms[0].bytes for _, part in self.memory]
        return sum(weights) + max(passes, default=0)


def check_pair(policy: str, reward: str, asked: PairUse = PairUse()) -> PairReport:
    """Look at a pair, and read its weights only with `asked.load`. Faults become findings."""
    findings: list[Finding] = []
    actor = _open(policy, "policy", asked, findings)
    judge = _open(reward, "reward", asked, findings)
    overlap = None
    if actor is not None and judge is not None:
        overlap = vocabulary.compare(actor.tokenizer.get_vocab(), judge.tokenizer.get_vocab())
        findings += _vocabulary(actor, judge, overlap, asked)
    if judge is not None:
        findings += _reward(judge, asked)
        findings += _template(judge, asked)
    if actor is not None:
        findings += _policy(actor, asked)
    opened = [c for c in (actor, judge) if c is not None]
    findings += [finding for c in opened for finding in _context(c, asked.length)]
    copied = overlap is not None and overlap.moved > 0
    sizes = tuple((c.source.who, _memory(c, asked, copied)) for c in opened)
    if asked.load and actor is not None and judge is not None:
        findings += _load(actor, judge, asked)
    return PairReport(policy, reward, tuple(findings), overlap, sizes)


def _open(name: str, role: Role, asked: PairUse, findings: list[Finding]) -> Checkpoint | None:
    source = asked.trust.source(name, role, None, {})
    try:
        found = examine(source, weights=False)
        findings.append(Finding(source.who, "ok", _describe(found)))
        findings.append(_weights(found))
        return found
    except ModelError as error:
        findings.append(Finding(source.who, "failed", str(error)))
        return None


def _describe(found: Checkpoint) -> str:
    kinds = {
        "causal": "language model",
        "outcome": "outcome reward, one score per response",
        "process": "process reward, one score per token",
    }
    shape = memory.Shape.of(found.config)
    return (
        f"{found.config.architectures[0]} ({kinds[found.kind]}), {shape.layers} layers, hidden "
        f"size {shape.hidden:,}, {len(found.tokenizer):,} tokens in {shape.rows:,} rows"
    )


def _weights(found: Checkpoint) -> Finding:
    name = f"weights of the {found.source.who}"
    if has_weights(found.source) is False:
        return Finding(name, "skipped", "none in this folder: only config and tokenizer were read")
    try:
        check_weights(found.source)
    except ModelError as error:
        return Finding(name, "failed", str(error))
    return Finding(name, "ok", "safetensors" if has_weights(found.source) else "on the hub")


def _vocabulary(
    actor: Checkpoint, judge: Checkpoint, overlap: Overlap, asked: PairUse
) -> Iterator[Finding]:
    try:
        vocabulary.check_overlap(overlap, asked.vocab)
    except NablaError as error:
        yield Finding("vocabulary", "failed", str(error))
        return
    worst: Verdict = "warning" if overlap.share < vocabulary.LEAST_OVERLAP else "ok"
    table = "re-indexed copy" if overlap.moved else "shared table, no copy"
    yield Finding("vocabulary", worst, f"{overlap.describe()} ({table})")
    different = [
        text
        for text in chat.probes(actor.tokenizer)
        if _strings(actor.tokenizer, text) != _strings(judge.tokenizer, text)
    ]
    if different:
        yield Finding(
            "tokenisation",
            "warning",
            f"the reward model would split {different[0]!r} otherwise than the policy writes it: "
            f"{_strings(judge.tokenizer, different[0])} instead of "
            f"{_strings(actor.tokenizer, different[0])}",
        )
    else:
        yield Finding("tokenisation", "ok", "both split probe texts alike")


def _strings(tokenizer: Any, text: str) -> list[str]:
    tokens: list[str] = tokenizer.convert_ids_to_tokens(list(chat.encode(tokenizer, text)))
    return tokens


def _reward(judge: Checkpoint, asked: PairUse) -> Iterator[Finding]:
    process = judge.kind == "process"
    labels = int(judge.config.num_labels)
    try:
        check_labels(judge.source.name, labels, process)
    except ModelError as error:
        yield Finding("score", "failed", str(error))
        return
    where = "every token" if process else "the last token"
    if asked.step_delimiter is not None and process:
        where = f"the ends of steps ({asked.step_delimiter!r})"
    yield Finding("score", "ok", f"{labels} label{'s' if labels > 1 else ''}, read at {where}")
    side = getattr(judge.tokenizer, "padding_side", "right")
    yield Finding(
        "padding",
        "ok",
        f"the tokenizer pads on the {side}; the engine always pads on the left, because with "
        "embeddings as input a classifier pools the last position",
    )


def _template(judge: Checkpoint, asked: PairUse) -> Iterator[Finding]:
    framer = Framer(judge.tokenizer, asked.template)
    try:
        trips = chat.check_frame(framer)
        frame = framer(chat.QUESTION)
    except ModelError as error:
        yield Finding("template", "failed", str(error))
        return
    shown = "plain text, no chat template" if framer.plain else "its own chat template"
    if asked.template.chat_template is not None and not framer.plain:
        shown = "the chat template that was given"
    yield Finding(
        "template",
        "ok" if trips else "skipped",
        f"{shown}: {len(frame.before)} tokens before and {len(frame.after)} after the response; "
        f"{sum(trip.exact for trip in trips)} of {len(trips)} probe responses are framed exactly",
    )
    for trip in trips:
        if not trip.exact:
            yield Finding("template", "warning", f"{trip.response!r}: {trip.reason}")


def _policy(actor: Checkpoint, asked: PairUse) -> Iterator[Finding]:
    tokenizer = actor.tokenizer
    ends = end_ids_of(actor.generation_config(), actor.config, tokenizer)
    if not ends:
        yield Finding("end of response", "failed", "no end-of-text token: no response would end")
    else:
        tokens = ", ".join(f"{tokenizer.convert_ids_to_tokens(i)} {i}" for i in ends)
        yield Finding("end of response", "ok", tokens)
    if asked.step_delimiter is not None:
        try:
            checked_steps(tokenizer, asked.step_delimiter)
            yield Finding("steps", "ok", f"the policy can write {asked.step_delimiter!r}")
        except NablaError as error:
            yield Finding("steps", "failed", str(error))


def _context(found: Checkpoint, length: int) -> Iterator[Finding]:
    context = context_length(found.config.get_text_config())
    name = f"context of the {found.source.who}"
    if length > context:
        yield Finding(
            name, "failed", f"{context:,} tokens, {length:,} asked for: use a shorter length"
        )
    else:
        yield Finding(name, "ok", f"{context:,} tokens, {length:,} asked for")


def _memory(found: Checkpoint, asked: PairUse, copied: bool) -> memory.Memory:
    shape = memory.Shape.of(found.config)
    parameters = memory.parameter_count(found.config, auto_class(found.kind))
    itemsize = found.dtype(asked.dtype_of(found)).itemsize
    use = memory.Use(asked.length, asked.batch, itemsize)
    if found.source.role == "policy":
        return memory.of_policy(shape, parameters, use)
    return memory.of_reward(shape, parameters, use, copied)


def _load(actor: Checkpoint, judge: Checkpoint, asked: PairUse) -> Iterable[Finding]:
    device = parse_device(None)
    try:
        pair = pair_from(
            policy_from(actor.load(parse_dtype(asked.dtype), device), actor.tokenizer),
            judge.load(parse_dtype(asked.dtype_of(judge)), device),
            judge.tokenizer,
            vocab=asked.vocab,
            step_delimiter=asked.step_delimiter,
            template=asked.template,
        )
    except NablaError as error:
        return [Finding("loading", "failed", str(error))]
    findings = [Finding("loading", "ok", "base and head add up to each model on a few tokens")]
    for found, base in ((actor, pair.policy.base), (judge, pair.judge.base)):
        slower = batching(base).describe()
        text = slower or "rows of a padded batch give what each gives alone"
        name = f"batches of the {found.source.who}"
        findings.append(Finding(name, "warning" if slower else "ok", text))
    return findings
