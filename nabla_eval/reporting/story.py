"""One trace record retold: the first draft, each judged candidate beside its rival, the answer.

The terminal and the viewer show these values; the page's script reads them by their names here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import islice, repeat
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

from nabla_eval.analysis.grades import Graded, Grades
from nabla_eval.outcome import Candidate, Choice, Step, Verdict
from nabla_eval.traces.index import shortened
from nabla_eval.traces.schema import Profile, Record

T = TypeVar("T")
Change: TypeAlias = Literal["wrong-right", "right-wrong", "stayed-right", "stayed-wrong", "unknown"]
Right: TypeAlias = tuple[bool | None, bool | None]  # the first draft and the answer
Owners: TypeAlias = dict[int, tuple[int, bool]]  # position -> `Token.by` and `Token.revised`
HALF = "\N{REPLACEMENT CHARACTER}"  # what bytes decode to that are no whole character
SHORT = 200  # characters of a text that a list shows
# What the fields of an lm-eval doc are called that hold its question.
QUESTIONS = ("question", "problem", "query", "input", "prompt", "instruction")
CUT = ("length", "step")  # how a response ends that was cut off
_ENDED = {
    "budget": "n used up",
    "reward": "stop_reward reached",
    "done": "nothing left to try",
    "malformed": "no whole response",
    "max_calls": "max_calls used up",
    "max_item_tokens": "max_item_tokens used up",
    "max_item_seconds": "max_item_seconds used up",
}


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
    # certified: none could change the draw; alone: min_probability left no other token to draw
    gradient: Literal["taken", "certified", "alone", "none"]
    old_text: str
    new_text: str
    shared: str  # text before the position, the same in both
    old_rest: str  # text after it
    new_rest: str
    old_reward: float
    new_reward: float
    verdict: Verdict
    stop: str
    right: bool | None  # the candidate; None where nobody knows
    answer: str | None
    before: str  # the whole text that it was compared with
    text: str  # its own


@dataclass(frozen=True)
class Assessment:
    """What is known of a problem that its trace does not say."""

    question: str = ""  # its own text; "" where the trace has to do
    gold: str | None = None  # the right answer
    grades: Grades = field(default_factory=Grades)


NOTHING = Assessment()


@dataclass(frozen=True)
class Sample:
    """One of several drafts."""

    index: int
    text: str
    reward: float | None
    stop: str
    right: bool | None
    answer: str | None
    returned: bool  # it is the answer; of several with its text the first


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
    question: str
    right: Right  # None where nobody knows
    rewards: tuple[float | None, float | None]
    revised: bool  # whether the answer is another one than the first draft
    change: Change
    judged: int  # candidates
    accepted: int
    drafts: int
    searched: int  # moves of a search
    calls: float  # of the models
    truncated: bool  # the answer was cut off
    no_answer: bool  # nothing in it could be graded


@dataclass(frozen=True)
class Story(Brief):
    """The events of one problem."""

    prompt: str
    gold: str | None
    answers: tuple[str | None, str | None]  # of the first draft and of the answer
    first: tuple[Token, ...]
    final: tuple[Token, ...] | None  # None where the first draft is the answer
    steps: tuple[StoryStep, ...]
    moves: tuple[Move, ...]  # of a search; no other method has any
    choices: tuple[Chosen, ...]  # of a guided method; no other has any
    samples: tuple[Sample, ...]  # the drafts, where there are several
    ended: str
    stop: str

    def brief(self) -> Brief:
        """Return the line of this story in a list."""
        return _picked(Brief, vars(self), question=self.question[:SHORT])


def _picked(kind: type[T], values: Mapping[str, Any], **more: Any) -> T:
    """Return a dataclass whose fields are values of the same names, and `more`."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**more, **{name: values[name] for name in names - more.keys()})


def own_question(entry: Mapping[str, Any], doc: Any) -> str:
    """Return the part of an lm-eval doc that a record's prompt asks, "" where there is none.

    Without few-shot examples, instructions and chat template, that is: a field that is called as
    questions are, else the longest text of the doc that stands in the prompt.
    """
    texts = doc if isinstance(doc, Mapping) else {}
    asked = {
        name: text.strip() for name, text in texts.items()
        if isinstance(text, str) and text.strip() and text.strip() in entry["prompt"]
    }  # fmt: skip
    named = next((asked[name] for name in QUESTIONS if name in asked), None)
    longest = max(asked.values(), key=len, default="")
    return named or (longest if len(longest) >= 12 else "")


def brief(entry: Mapping[str, Any], told: Assessment = NOTHING) -> Brief:
    """Return the line of a shortened record (`traces.index.entries`) in a list."""
    outcome, drafts, candidates = entry["outcome"], entry["drafts"], entry["candidates"]
    question = told.question or entry.get("question") or entry["prompt"]
    right, final = told.grades.right, told.grades.final
    return Brief(
        id=entry["id"],
        question=question[:SHORT],
        right=right,
        rewards=(drafts[0]["reward"] if drafts else None, outcome["reward"]),
        revised=entry["revised"],
        change=change_of(*right),
        judged=len(candidates),
        accepted=sum(candidate["verdict"] == "accepted" for candidate in candidates),
        drafts=len(drafts),
        searched=entry["moves"],
        calls=entry["ledger"]["model_calls"],
        truncated=outcome["stop"] in CUT,
        no_answer=final.right is False and final.answer is None,
    )


def tell(record: Record, told: Assessment = NOTHING) -> Story:
    """Return the story of a record."""
    entry = shortened(record)
    draft = record["drafts"][0] if record["drafts"] else None
    outcome, grades = record["outcome"], told.grades
    start = outcome["text"] if draft is None else draft["text"]
    steps, owners = _replay(record, start, grades)
    profiles = record.get("profiles", {})
    first = profiles.get("first")
    final = profiles.get("final", None if entry["revised"] else first)
    first_tokens = _plain(start) if first is None else _tokens(first, {}, start)
    final_tokens = (
        _plain(outcome["text"]) if final is None else _tokens(final, owners, outcome["text"])
    )
    question = told.question or entry.get("question") or record["prompt"]
    return Story(
        **{**vars(brief(entry, told)), "question": question},
        prompt=record["prompt"],
        gold=told.gold,
        answers=(grades.first.answer, grades.final.answer),
        first=first_tokens,
        final=final_tokens if final_tokens != first_tokens else None,
        steps=steps,
        moves=tree_of(record.get("steps", []), outcome["tokens"]),
        choices=tuple(_chosen(choice) for choice in record.get("choices", [])),
        samples=_samples(record, grades),
        ended=_ENDED.get(outcome["ended"], outcome["ended"]),
        stop=outcome["stop"],
    )


def change_of(first: bool | None, final: bool | None) -> Change:
    """Name what became of a first draft that is right, wrong or not known to be either."""
    if first is None or final is None:
        return "unknown"
    if first == final:
        return "stayed-right" if final else "stayed-wrong"
    return "wrong-right" if final else "right-wrong"


def _replay(record: Record, start: str, grades: Grades) -> tuple[tuple[StoryStep, ...], Owners]:
    """Judge the candidates again, in order: steps, and who wrote each position of the answer."""
    current = start
    owners: Owners = {}
    steps = []
    for candidate, grade in zip(record["candidates"], _known(grades), strict=False):
        at, text, index = _split(candidate, current), candidate["text"], candidate["index"]
        old = _matching(candidate["old_text"], current[at:])
        new = _matching(candidate["new_text"], text[at:])
        more = {"old_rest": current[at + len(old) :], "new_rest": text[at + len(new) :]}
        more |= {"gradient": _gradient(record, candidate), **grade._asdict()}
        steps.append(_picked(StoryStep, candidate, shared=text[:at], before=current, **more))
        if candidate["verdict"] == "accepted":
            position = candidate["position"]
            owners = {place: owner for place, owner in owners.items() if place < position}
            owners[position] = (index, True)
            owners |= {p: (index, False) for p in range(position + 1, len(candidate["tokens"]))}
            current = text
    if current != record["outcome"]["text"]:  # chosen otherwise than by the last acceptance
        owners = {}
    return tuple(steps), owners


def judged_texts(record: Record) -> list[str]:
    """Return the texts that `Grades.judged` is about: of candidates, then of several drafts."""
    drafts = record["drafts"]
    return [each["text"] for each in (*record["candidates"], *(drafts if len(drafts) > 1 else ()))]


def _known(grades: Grades) -> Iterable[Graded]:
    return repeat(Graded()) if grades.judged is None else grades.judged


def _samples(record: Record, grades: Grades) -> tuple[Sample, ...]:
    drafts, text = record["drafts"], record["outcome"]["text"]
    if len(drafts) < 2:
        return ()
    known = islice(_known(grades), len(record["candidates"]), None)
    chosen = next((i for i, draft in enumerate(drafts) if draft["text"] == text), None)
    return tuple(
        _picked(Sample, draft, returned=i == chosen, **grade._asdict())
        for i, (draft, grade) in enumerate(zip(drafts, known, strict=False))
    )


def _gradient(record: Record, candidate: Candidate) -> str:
    """Say whether a gradient was taken for a draw, and if not why."""
    if candidate["gradient_norm"] is not None:
        return "taken"
    config = record["config"]
    # The twin's draws are certain by its nature.
    if config.get("steps") == 0 or not candidate.get("certified"):
        return "none"
    # Either the most likely token leaves too little to any other, or it is too unlikely itself.
    least, most = config.get("min_probability") or 0.0, candidate["top_probability"]
    return "alone" if most < least or 1 - most < least else "certified"


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


def _tokens(profile: Profile, owners: Owners, whole: str) -> tuple[Token, ...]:
    texts, norms = _characters(profile["tokens"], whole), profile["gradient_norms"]
    places = range(len(texts))
    norm = map(norms.get, map(str, places)) if norms else repeat(None)
    by = [owners.get(place, (None, False)) for place in places] if owners else []
    writers, revised = zip(*by, strict=True) if owners and by else (repeat(None), repeat(False))
    columns = zip(texts, profile["entropy"], norm, writers, revised, strict=False)
    return tuple(map(partial(tuple.__new__, Token), columns))  # `_make`, faster


def _characters(texts: Sequence[str], whole: str) -> list[str]:
    """Return the texts of tokens, with characters that several tokens make up at the first of them.

    Alone, a token of half a character reads as � or ��; the whole text has the character.
    """
    found, at = list(texts), 0
    places = iter(range(len(texts)))
    for place in places:
        if HALF not in texts[place]:
            at += len(_matching(texts[place], whole[at:]))
            continue
        end = next((i for i in range(place, len(texts)) if HALF not in texts[i]), len(texts))
        rest = whole[at : at + sum(map(len, texts[place:end]))]  # no more characters than pieces
        if end < len(texts) and texts[end] in rest:
            rest = rest[: rest.index(texts[end])]
        found[place:end] = [rest, *[""] * (end - place - 1)]
        at += len(rest)
        for _ in range(place + 1, end):
            next(places)
    return found


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
