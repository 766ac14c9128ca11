"""Views of `nabla-eval trace`: stories of a run folder, as a table, as text, as pages."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nabla_eval.analysis.folders import ScoredTask, evaluations, find, finished, natural, traces_of
from nabla_eval.analysis.runs import task_of
from nabla_eval.cli.grading import grader
from nabla_eval.errors import DataError
from nabla_eval.reporting.story import (
    UNKNOWN,
    Brief,
    Move,
    Right,
    Story,
    StoryStep,
    Token,
    brief,
    rightness,
    tell,
)
from nabla_eval.reporting.text import MISSING, number
from nabla_eval.reporting.viewer import TracePage
from nabla_eval.terminal import visible
from nabla_eval.traces.index import entries, whole
from nabla_eval.traces.manifest import FILE, check_schema, read_manifest
from nabla_eval.traces.schema import Record

VERDICTS = {"accepted": "bold green", "rejected": "red", "tie": "yellow"}


@dataclass(frozen=True)
class StoredProblem:
    """A problem of a run folder. Its story is read when it is asked for, so that runs may be large.

    `told` is what the task says about it, None where no score can be used.
    """

    entry: Record  # shortened
    told: ScoredTask | None

    @property
    def id(self) -> str:
        """The problem's id, task/document/repeat."""
        return str(self.entry["id"])

    def right(self) -> Right:
        """Say whether the first draft and the answer are right, by grading where nobody did."""
        told = self.told
        if told is None:
            return UNKNOWN
        return rightness(self.entry, told.scores, told.docs, grader(told.task))

    def brief(self) -> Brief:
        """Return the problem's line in a list."""
        return brief(self.entry, self.right())

    def story(self) -> Story:
        """Return the problem's story; of an unfinished run without right or wrong."""
        return tell(whole(self.entry), self.right())


def problems_of(folder: Path) -> list[StoredProblem]:
    """Return every problem of a run folder, also of one that is not finished.

    Then right or wrong is not known where no grader can say. Raises `DataError` where there are no
    traces.
    """
    if not (folder / FILE).exists() and folder.is_dir() and not any(folder.glob("trace-rank*")):
        homes = find(folder)
        folder = homes[0] if len(homes) == 1 else folder
    check_schema(folder)
    found = sorted(entries(traces_of(folder)), key=lambda entry: natural(entry["id"]))
    told: dict[str, ScoredTask] = {}
    if any(folder.rglob("samples_*.jsonl")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an unfinished run, which is fine here
                if finished(folder):
                    names = [entry["id"] for entry in found]
                    told = {each.task: each for each in evaluations(folder, names)}
        except DataError as fault:
            warnings.warn(f"Shown without the task's scores. {fault}", stacklevel=2)
    return [StoredProblem(entry, told.get(task_of(entry["id"]))) for entry in found]


def pages_of(folder: Path) -> dict[str, TracePage]:
    """Return a page for every run at or below a folder, by file name."""
    pages: dict[str, TracePage] = {}
    for home in find(folder):
        name = re.sub(r"[^A-Za-z0-9._+-]+", "_", home.resolve().name) or "run"
        while name in pages:
            name += "_"
        manifest = read_manifest(home)
        title = home.resolve().name if manifest is None else manifest["name"]
        pages[name] = TracePage(title, _stories(home), _facts(home))
    return pages


def _stories(home: Path) -> Iterator[Story]:
    for problem in problems_of(home):
        yield problem.story()


def _facts(home: Path) -> dict[str, str]:
    manifest = read_manifest(home)
    told = {} if manifest is None else {"command": manifest["command"]}
    first = next(entries(traces_of(home)), None)
    if first is None:  # a shard in which nothing is yet
        return told
    facts = {
        "method": first["method"],
        "options": ", ".join(f"{k}={v}" for k, v in first["config"].items() if v is not None),
        "policy": str(first["models"].get("policy", MISSING)),
        "reward model": str(first["models"].get("reward", MISSING)),
        "versions": ", ".join(f"{name} {v}" for name, v in first["versions"].items()),
    }
    return {**told, **facts}


def _table(
    *headings: str, right: Iterable[str] = (), fold: Iterable[str] = (), gap: int = 0
) -> Table:
    """Return a plain table; cells of the columns in `fold` may be broken into several lines."""
    table = Table(box=None, pad_edge=False, padding=(0, gap or 2, 0, gap))
    for heading in headings:
        table.add_column(
            heading, no_wrap=heading not in fold, overflow="fold" if fold else "ellipsis",
            justify="right" if heading in right else "left",
        )  # fmt: skip
    return table


def problem_table(briefs: Sequence[Brief], width: int) -> Table:
    """Return one line per problem; the response as far as there is room, or not at all."""
    numbers = ("Reward", "Judged", "Kept", "Calls")
    headings = ("Problem", "Draft", "Answer", *numbers)
    rows = list(map(_problem, briefs))
    texts = zip(headings, *([str(cell) for cell in row] for row in rows), strict=True)
    room = width - sum(max(map(cell_len, column)) + 2 for column in texts)
    shown = room >= 16
    table = _table(*headings, *(["Response"] if shown else []), right=numbers)
    for row, each in zip(rows, briefs, strict=True):
        response = Text(_line(each.response))
        response.truncate(min(room, 60), overflow="ellipsis")
        table.add_row(*row, *([response] if shown else []))
    return table


def _problem(line: Brief) -> list[Text]:
    first, final = (number(reward, 2) for reward in line.rewards)
    cells = [f"{first} → {final}" if line.revised else final, str(line.judged)]
    cells += [str(line.accepted), number(line.calls, 0)]
    return [Text(visible(line.id)), *map(_right, line.right), *map(Text, cells)]


def told(story: Story) -> Iterator[RenderableType]:
    """Yield one problem for the terminal, part by part; model text is never read as markup."""
    yield Text(visible(story.id), style="bold")
    yield Text(visible(story.prompt))
    responses = [("First draft ", story.first), ("Answer ", story.final)]
    for (name, tokens), right, reward in zip(responses, story.right, story.rewards, strict=True):
        if tokens is not None:
            head = f"  reward {number(reward, 3)}\n"
            yield Text.assemble("\n", (name, "bold"), _right(right), head, _response(tokens))
    done = f"{len(story.steps)} candidates, {story.accepted} accepted"
    if story.moves:
        chosen = sum(move.chosen for move in story.moves)
        done = f"{len(story.moves)} moves of the search, {chosen} of them to the answer"
    if story.choices and not story.steps:
        replaced = sum(choice.replaced for choice in story.choices)
        done = f"{len(story.choices)} guided tokens, {replaced} of them replaced (see `trace html`)"
    calls = f"{number(story.calls, 0)} model calls; ended: {visible(story.ended)}"
    yield Text(f"\n{done}; {calls}", style="bold")
    for step in story.steps:
        yield _step(step)
    if story.moves:
        yield _moves(story.moves)


def _moves(moves: Sequence[Move]) -> RenderableType:
    """Draw the search as a tree; what leads to the answer has an arrow."""
    visited = any(move.visits for move in moves)
    headings = ("", "Move", "Value", *(["Visits"] if visited else []), "Note")
    table = _table(*headings, right=("Value", "Visits"), fold=("Move", "Note"), gap=1)
    for move in moves:
        kind = "" if move.kind == "step" else f"{visible(move.kind)}: "
        notes = [visible(move.note)] if move.note else []
        if move.stop in ("eos", "stop") and move.kind == "step":
            notes.insert(0, "complete")
        table.add_row(
            Text("→" if move.chosen else " ", style="bold green"),
            Text.assemble(
                (_indent(move.depth), "dim"), kind, _line(move.text) or "(empty)",
                style="bold" if move.chosen else "",
            ),
            number(move.value, 3), *([str(move.visits)] if visited else []),
            Text("; ".join(notes), style="" if move.note else "dim"),
        )  # fmt: skip
    return table


def _indent(depth: int, most: int = 8) -> str:
    """Draw lines down to a move; from `most` on its depth as a number."""
    return "│ " * min(depth, most) + (f"({depth}) " if depth > most else "")


def _step(step: StoryStep) -> RenderableType:
    shared = visible(step.shared)
    tail = shared if len(shared) <= 60 else f"…{shared[-60:]}"
    head = Text.assemble(
        f"\n{step.index + 1}. ", (step.verdict, VERDICTS[step.verdict]),
        f"  token {step.position}: ", (_line(step.old_text), "bold red"), " → ",
        (_line(step.new_text), "bold green"),
        f"   reward {number(step.old_reward, 3)} → {number(step.new_reward, 3)}",
        f"\n   entropy {number(step.entropy, 2)}   gradient norm {number(step.gradient_norm, 3)}",
    )  # fmt: skip
    sides = (
        ("-", step.old_text, "bold red", step.old_rest),
        ("+", step.new_text, "bold green", step.new_rest),
    )
    return Group(
        head,
        *(
            Text.assemble(f"   {sign} ", (tail, "dim"), (visible(token), style), visible(rest))
            for sign, token, style, rest in sides
        ),
    )


def _response(tokens: Sequence[Token]) -> Text:
    """Mark a response's revised tokens with the number of the candidate."""
    text = Text()
    for token in tokens:
        if token.revised and token.by is not None:
            text.append(visible(token.text), style="bold reverse")
            text.append(f"[{token.by + 1}]", style="cyan")
        else:
            text.append(visible(token.text), style="" if token.by is None else "underline")
    return text


def _right(right: bool | None) -> Text:
    if right is None:
        return Text("?")
    return Text("right", style="green") if right else Text("wrong", style="red")


def _line(text: str) -> str:
    return visible(text).replace("\n", "↵").replace("\t", "⇥")
