"""One trace record retold: the first draft, each judged candidate beside its rival, the answer.

The terminal and the viewer show these values; the page's script reads them by their names here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from nabla_eval.outcome import Candidate, Choice, Step, Verdict
from nabla_eval.thought import answered
from nabla_eval.traces.index import shortened
from nabla_eval.traces.schema import Profile, Record, document

T = TypeVar("T")
# (lm-eval's doc and target, response) -> is it right?
Judge: TypeAlias = Callable[[Mapping[str, Any], str], bool]
Change: TypeAlias = Literal["wrong-right", "right-wrong", "stayed-right", "stayed-wrong", "unknown"]
Right: TypeAlias = tuple[bool | None, bool | None]  # the first draft and the answer
Owners: TypeAlias = dict[int, tuple[int, bool]]  # position -> `Token.by` and `Token.revised`
UNKNOWN: Right = (None, None)
SHORT = 200  # characters of a text that a list shows


class Token(NamedTuple):
    """A token of a response, or all of its text where a trace does not have it token by token."""

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
    gradient_norm: float | None
    old_text: str
    new_text: str
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
    old_text: str
    new_text: str
    log_probability: tuple[float, float]  # nats, of the old and of the new token
    gradient: tuple[float | None, float | None]  # G, nats
    score: tuple[float | None, float | None]  # of the prefix that ends with it
    replaced: bool


@dataclass(frozen=True)
class Move:
    """One move of a search: a step of a response, a critique, a revision."""

    index: int
    depth: int  # moves before it on its path
    kind: str
    text: str
    value: float | None  # what the method thinks of it
    visits: int
    note: str  # what was wrong with it
    stop: str
    chosen: bool  # on the path to the returned response


@dataclass(frozen=True)
class Brief:
    """One line of a list of stories. Pairs are of the first draft and of the answer."""

    id: str
    prompt: str
    right: Right  # None where nobody knows
    rewards: tuple[float | None, float | None]
    revised: bool  # whether the answer is another one than the first draft
    change: Change
    judged: int  # candidates
    accepted: int
    searched: int  # moves of a search
    calls: float  # of the models
    response: str  # its beginning


@dataclass(frozen=True)
class Story(Brief):
    """The events of one problem."""

    first: tuple[Token, ...]
    final: tuple[Token, ...] | None  # None where the first draft is the answer
    steps: tuple[StoryStep, ...]
    moves: tuple[Move, ...]  # of a search; no other method has any
    choices: tuple[Chosen, ...]  # of a guided method; no other has any
    drafts: int
    ended: str
    stop: str

    def brief(self) -> Brief:
        """Return the line of this story in a list."""
        return _picked(Brief, vars(self), prompt=self.prompt[:SHORT])


def _picked(kind: type[T], values: Mapping[str, Any], **more: Any) -> T:
    """Return a dataclass whose fields are values of the same names, and `more`."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**more, **{name: values[name] for name in names - more.keys()})


def brief(entry: Mapping[str, Any], right: Right = UNKNOWN) -> Brief:
    """Return the line of a shortened record (`traces.index.entries`) in a list."""
    outcome, drafts, candidates = entry["outcome"], entry["drafts"], entry["candidates"]
    return Brief(
        id=entry["id"],
        prompt=entry["prompt"][:SHORT],
        right=right,
        rewards=(drafts[0]["reward"] if drafts else None, outcome["reward"]),
        revised=entry["revised"],
        change=change_of(*right),
        judged=len(candidates),
        accepted=sum(candidate["verdict"] == "accepted" for candidate in candidates),
        searched=entry["moves"],
        calls=entry["ledger"]["model_calls"],
        response=outcome["text"][:SHORT],
    )


def rightness(
    entry: Mapping[str, Any],
    scores: Mapping[str, Sequence[float]],
    docs: Mapping[str, Mapping[str, Any]],
    judge: Judge | None,
) -> Right:
    """Return whether the first draft and the answer of a shortened record are right.

    `scores` and `docs` are the task's, by problem (task/document). `judge` grades the first draft,
    and an answer whose own score is not known: a mean over several answers to a problem says
    nothing of one of them.
    """
    problem = document(entry["id"])
    known, doc = set(scores.get(problem, ())), docs.get(problem)

    def grade(text: str) -> bool | None:
        if judge is None or doc is None:
            return None
        return judge(doc, answered(entry["prompt"], text))

    last = known == {1.0} if known in ({0.0}, {1.0}) else grade(entry["outcome"]["text"])
    return last if entry["first"] is None else grade(entry["first"]), last


def tell(record: Record, right: Right = UNKNOWN) -> Story:
    """Return the story of a record."""
    entry = shortened(record)
    draft = record["drafts"][0] if record["drafts"] else None
    outcome = record["outcome"]
    start = outcome["text"] if draft is None else draft["text"]
    steps, owners = _replay(record, start)
    profiles = record.get("profiles", {})
    first = profiles.get("first")
    final = profiles.get("final", None if entry["revised"] else first)
    first_tokens = _plain(start) if first is None else _tokens(first, {})
    final_tokens = _plain(outcome["text"]) if final is None else _tokens(final, owners)
    return Story(
        **{**vars(brief(entry, right)), "prompt": record["prompt"]},
        first=first_tokens,
        final=final_tokens if final_tokens != first_tokens else None,
        steps=steps,
        moves=tree_of(record.get("steps", []), outcome["tokens"]),
        choices=tuple(_chosen(choice) for choice in record.get("choices", [])),
        drafts=len(record["drafts"]),
        ended=outcome["ended"],
        stop=outcome["stop"],
    )


def change_of(first: bool | None, final: bool | None) -> Change:
    """Name what became of a first draft that is right, wrong or not known to be either."""
    if first is None or final is None:
        return "unknown"
    if first == final:
        return "stayed-right" if final else "stayed-wrong"
    return "wrong-right" if final else "right-wrong"


def _replay(record: Record, start: str) -> tuple[tuple[StoryStep, ...], Owners]:
    """Judge the candidates again, in order: steps, and who wrote each position of the answer."""
    current = start
    owners: Owners = {}
    steps = []
    for candidate in record["candidates"]:
        at, text, index = _split(candidate, current), candidate["text"], candidate["index"]
        old = _matching(candidate["old_text"], current[at:])
        new = _matching(candidate["new_text"], text[at:])
        rests = {"old_rest": current[at + len(old) :], "new_rest": text[at + len(new) :]}
        steps.append(_picked(StoryStep, candidate, shared=text[:at], **rests))
        if candidate["verdict"] == "accepted":
            position = candidate["position"]
            owners = {place: owner for place, owner in owners.items() if place < position}
            owners[position] = (index, True)
            owners |= {p: (index, False) for p in range(position + 1, len(candidate["tokens"]))}
            current = text
    if current != record["outcome"]["text"]:  # chosen otherwise than by the last acceptance
        owners = {}
    return tuple(steps), owners


def _chosen(choice: Choice) -> Chosen:
    pairs = {
        name: (choice[f"old_{name}"], choice[f"new_{name}"])
        for name in ("log_probability", "gradient", "score")
    }
    return _picked(Chosen, choice, replaced=choice["old_token"] != choice["new_token"], **pairs)


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
    """Return the token if the text starts with it; special tokens are not in texts."""
    return token if text.startswith(token) else ""


def _plain(text: str) -> tuple[Token, ...]:
    return (Token(text),) if text else ()


def _tokens(profile: Profile, owners: Owners) -> tuple[Token, ...]:
    norms = profile["gradient_norms"]
    texts = zip(profile["tokens"], profile["entropy"], strict=True)
    return tuple(
        Token(text, entropy, norms.get(str(place)), *owners.get(place, (None, False)))
        for place, (text, entropy) in enumerate(texts)
    )


# --- the moves of a search as a tree, depth first, with the path to the answer marked ---


def tree_of(steps: Sequence[Step], answer: Sequence[int]) -> tuple[Move, ...]:
    """Return every move below the one that it goes on from, in the order in which they were made.

    `answer`: tokens of the returned response. Its path is that of the last move whose own tokens
    (a revision's), or whose tokens with those before it (a step's), are the answer's; none is
    marked where no move has them.
    """
    known = {step["index"]: step for step in steps}
    children: dict[int | None, list[Step]] = {}
    for step in steps:
        parent = step["parent"] if step["parent"] in known else None
        children.setdefault(parent, []).append(step)
    chosen = _path(known, list(answer))
    moves: list[Move] = []
    waiting = [(step, 0) for step in reversed(children.get(None, []))]
    while waiting:
        step, depth = waiting.pop()
        moves.append(_picked(Move, step, depth=depth, chosen=step["index"] in chosen))
        waiting += [(child, depth + 1) for child in reversed(children.get(step["index"], []))]
    return tuple(moves)


def _path(known: Mapping[int, Step], answer: list[int]) -> set[int]:
    """Return the moves that lead to the answer, the last one included."""
    for last in reversed(list(known.values())):
        path = _to_root(known, last)
        whole = [token for step in reversed(path) for token in step["tokens"]]
        if answer and answer in (whole, list(last["tokens"])):
            return {step["index"] for step in path}
    return set()


def _to_root(known: Mapping[int, Step], step: Step) -> list[Step]:
    path = [step]
    while (parent := path[-1]["parent"]) in known and parent is not None and parent < step["index"]:
        path.append(known[parent])
        if len(path) > len(known):  # a damaged trace goes in a circle
            break
    return path
