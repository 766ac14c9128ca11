"""One trace record retold: the first draft, each judged candidate beside its rival, the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

from nabla_eval.outcome import Candidate, Choice, Verdict
from nabla_eval.reporting.search_tree import Move, tree_of
from nabla_eval.thought import answered
from nabla_eval.traces.schema import Profile, Record, document

# (lm-eval's doc and target, response) -> is it right?
Judge: TypeAlias = Callable[[Mapping[str, Any], str], bool]
Change: TypeAlias = Literal["wrong-right", "right-wrong", "stayed-right", "stayed-wrong", "unknown"]


class Token(NamedTuple):
    """A piece of a response: one token, or text between revisions where a trace has no tokens."""

    text: str
    entropy: float | None = None  # nats
    norm: float | None = None  # of the gradient
    by: int | None = None  # index of the accepted candidate that wrote it
    revised: bool = False  # the revised token itself, not what was rolled out after it


@dataclass(frozen=True)
class StoryStep:
    """A judged candidate beside the response that it was to replace."""

    index: int
    sweep: int
    position: int
    entropy: float
    top_probability: float
    norm: float | None
    old: str
    new: str
    shared: str  # text before the position, the same in both
    old_rest: str  # text after it
    new_rest: str
    old_reward: float
    new_reward: float
    verdict: Verdict


@dataclass(frozen=True)
class Chosen:
    """A token that was chosen with the reward model's help, beside the policy's own."""

    position: int
    by: str
    top_probability: float
    old: str
    new: str
    log_probability: tuple[float, float]  # nats, of the old and of the new token
    gradient: tuple[float | None, float | None]  # G, nats
    score: tuple[float | None, float | None]  # of the prefix that ends with it
    replaced: bool


@dataclass(frozen=True)
class Story:
    """The events of one problem."""

    id: str
    prompt: str
    first: tuple[Token, ...]
    final: tuple[Token, ...]
    first_reward: float | None
    final_reward: float | None
    first_right: bool | None  # None where nobody knows
    final_right: bool | None
    steps: tuple[StoryStep, ...]
    moves: tuple[Move, ...]  # of a search; no other method has any
    choices: tuple[Chosen, ...]  # of a guided method; no other has any
    drafts: int
    ended: str
    stop: str
    model_calls: float
    seconds: float

    @cached_property
    def revised(self) -> bool:
        """Return whether the answer is another one than the first draft."""
        return self.first != self.final

    @property
    def accepted(self) -> int:
        """Candidates that replaced the response."""
        return sum(step.verdict == "accepted" for step in self.steps)

    @property
    def chosen(self) -> list[Move]:
        """The moves of a search that lead to the answer, in order."""
        return [move for move in self.moves if move.chosen]

    @property
    def change(self) -> Change:
        """Return what became of a right or wrong first draft."""
        if self.first_right is None or self.final_right is None:
            return "unknown"
        if self.first_right == self.final_right:
            return "stayed-right" if self.final_right else "stayed-wrong"
        return "wrong-right" if self.final_right else "right-wrong"


SHORT = 200  # characters of a text that a list shows


@dataclass(frozen=True)
class Brief:
    """One line of a list of stories."""

    id: str
    prompt: str  # its beginning, as that of the response
    response: str
    revised: bool  # whether the answer is another one than the first draft
    first_reward: float | None
    final_reward: float | None
    first_right: bool | None
    final_right: bool | None
    change: Change
    judged: int  # candidates
    accepted: int
    searched: int  # moves of a search
    model_calls: float

    @classmethod
    def of(cls, story: Story) -> Brief:
        """The line of a story."""
        return cls(
            id=story.id,
            prompt=story.prompt[:SHORT],
            response="".join(token.text for token in story.final[:SHORT])[:SHORT],
            revised=story.revised,
            first_reward=story.first_reward,
            final_reward=story.final_reward,
            first_right=story.first_right,
            final_right=story.final_right,
            change=story.change,
            judged=len(story.steps),
            accepted=story.accepted,
            searched=len(story.moves),
            model_calls=story.model_calls,
        )


def tell(
    record: Record,
    *,
    right: bool | None = None,
    doc: Mapping[str, Any] | None = None,
    judge: Judge | None = None,
) -> Story:
    """The story of a record. `right`: the task's score of the answer, where it is known.

    `judge` grades the first draft, and an answer whose own score is not known, against `doc`.
    """
    draft = record["drafts"][0] if record["drafts"] else None
    outcome = record["outcome"]
    start = outcome["text"] if draft is None else draft["text"]

    def grade(text: str) -> bool | None:
        if judge is None or doc is None:
            return None
        return judge(doc, answered(record["prompt"], text))

    final_right = grade(outcome["text"]) if right is None else right
    first_right = final_right if start == outcome["text"] else grade(start)
    profiles = record.get("profiles", {})
    first = profiles.get("first")
    final = profiles.get("final", first if _same(record) else None)
    steps, owners, texts = _replay(record, start)
    return Story(
        id=record["id"],
        prompt=record["prompt"],
        first=_plain(start) if first is None else _tokens(first, {}),
        final=_tokens(final, owners) if final is not None else texts,
        first_reward=None if draft is None else draft["reward"],
        final_reward=outcome["reward"],
        first_right=first_right,
        final_right=final_right,
        steps=steps,
        moves=tree_of(record.get("steps", []), outcome["tokens"]),
        choices=tuple(_chosen(choice) for choice in record.get("choices", [])),
        drafts=len(record["drafts"]),
        ended=outcome["ended"],
        stop=outcome["stop"],
        model_calls=record["ledger"]["model_calls"],
        seconds=record["seconds"],
    )


def tell_all(
    records: Iterable[Record],
    scores: Mapping[str, Sequence[float]] | None = None,
    docs: Mapping[str, Mapping[str, Any]] | None = None,
    judge: Judge | None = None,
) -> list[Story]:
    """Every record's story, in file order. `scores` and `docs` are by problem (task/document)."""
    stories = []
    for record in records:
        problem = document(record["id"])
        known = set((scores or {}).get(problem, ()))
        right = known == {1.0} if len(known) == 1 and known <= {0.0, 1.0} else None
        stories.append(tell(record, right=right, doc=(docs or {}).get(problem), judge=judge))
    return stories


def _same(record: Record) -> bool:
    """Return whether the first draft is what was returned."""
    drafts = record["drafts"]
    return not drafts or drafts[0]["tokens"] == record["outcome"]["tokens"]


def _replay(
    record: Record, start: str
) -> tuple[tuple[StoryStep, ...], dict[int, tuple[int, bool]], tuple[Token, ...]]:
    """Judge the candidates again, in order: steps, who wrote each position, and the final text.

    The last is for traces without tokens: text cut where revisions were made.
    """
    current, pieces = start, _plain(start)
    owners: dict[int, tuple[int, bool]] = {}
    steps = []
    for candidate in record["candidates"]:
        at = _split(candidate, current)
        steps.append(_step(candidate, current, at))
        if candidate["verdict"] == "accepted":
            position, index = candidate["position"], candidate["index"]
            owners = {place: owner for place, owner in owners.items() if place < position}
            owners[position] = (index, True)
            owners |= {p: (index, False) for p in range(position + 1, len(candidate["tokens"]))}
            current = candidate["text"]
            end = at + len(_matching(candidate["new_text"], current[at:]))
            pieces = (
                *_cut(pieces, at),
                Token(current[at:end], candidate["entropy"], by=index, revised=True),
                Token(current[end:], by=index),
            )
    if current != record["outcome"]["text"]:  # chosen otherwise than by the last acceptance
        return tuple(steps), {}, _plain(record["outcome"]["text"])
    return tuple(steps), owners, tuple(piece for piece in pieces if piece.text)


def _step(candidate: Candidate, current: str, at: int) -> StoryStep:
    text = candidate["text"]
    old = _matching(candidate["old_text"], current[at:])
    new = _matching(candidate["new_text"], text[at:])
    return StoryStep(
        index=candidate["index"],
        sweep=candidate["sweep"],
        position=candidate["position"],
        entropy=candidate["entropy"],
        top_probability=candidate["top_probability"],
        norm=candidate["gradient_norm"],
        old=candidate["old_text"],
        new=candidate["new_text"],
        shared=text[:at],
        old_rest=current[at + len(old) :],
        new_rest=text[at + len(new) :],
        old_reward=candidate["old_reward"],
        new_reward=candidate["new_reward"],
        verdict=candidate["verdict"],
    )


def _chosen(choice: Choice) -> Chosen:
    return Chosen(
        choice["position"],
        choice["by"],
        choice["top_probability"],
        choice["old_text"],
        choice["new_text"],
        (choice["old_log_probability"], choice["new_log_probability"]),
        (choice["old_gradient"], choice["new_gradient"]),
        (choice["old_score"], choice["new_score"]),
        choice["old_token"] != choice["new_token"],
    )


def _split(candidate: Candidate, current: str) -> int:
    """Where in the text the revised position is: after what the trace kept of the text before it.

    The common beginning of both texts may be longer than that (12 and 13 share a 1), not shorter.
    """
    if candidate["position"] == 0:
        return 0
    text, before = candidate["text"], candidate["context"]
    common = _common(text, current)
    place = text.rfind(before, 0, common) if before else 0
    return place + len(before) if place >= 0 else common


def _common(one: str, other: str) -> int:
    """Characters at the beginning that are the same, found by halving."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _matching(token: str, text: str) -> str:
    """The token if the text starts with it; special tokens are not in texts."""
    return token if text.startswith(token) else ""


def _cut(pieces: Sequence[Token], end: int) -> list[Token]:
    """The pieces up to a place in their joined text."""
    kept, place = [], 0
    for piece in pieces:
        text = piece.text[: max(0, end - place)]
        if text:
            kept.append(Token(text, piece.entropy, piece.norm, piece.by, piece.revised))
        place += len(piece.text)
    return kept


def _plain(text: str) -> tuple[Token, ...]:
    return (Token(text),) if text else ()


def _tokens(profile: Profile, owners: Mapping[int, tuple[int, bool]]) -> tuple[Token, ...]:
    norms = profile["gradient_norms"]
    found = []
    for place, (text, entropy) in enumerate(
        zip(profile["tokens"], profile["entropy"], strict=True)
    ):
        by, revised = owners.get(place, (None, False))
        found.append(Token(text, entropy, norms.get(str(place)), by, revised))
    return tuple(found)
