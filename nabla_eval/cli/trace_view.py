"""Views of `nabla-eval trace`: stories of a run folder, as a table, as text, as pages."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nabla_eval.analysis.folders import (
    ScoredTask,
    evaluations,
    files_of,
    find,
    finished,
    natural,
    traces_of,
)
from nabla_eval.analysis.grades import Grades, KeptGrades
from nabla_eval.analysis.runs import task_of
from nabla_eval.cli.grading import gold, judge, rules
from nabla_eval.errors import DataError
from nabla_eval.reporting.story import (
    Assessment,
    Brief,
    Move,
    Sample,
    Story,
    StoryStep,
    Token,
    brief,
    judged_texts,
    own_question,
    tell,
)
from nabla_eval.reporting.text import MISSING, number, rewards
from nabla_eval.reporting.viewer import INDEX, TracePage
from nabla_eval.terminal import visible
from nabla_eval.traces.index import entries, light, shortened, whole
from nabla_eval.traces.manifest import FILE, check_schema, read_manifest
from nabla_eval.traces.schema import Record, document

EXCERPT = 240  # characters of a candidate that are shown after its revised token
VERDICTS = {"accepted": "bold green", "rejected": "red", "tie": "yellow"}


@dataclass(frozen=True)
class StoredProblem:
    """A problem of a run folder. Its story is read when it is asked for, so that runs may be large.

    `task` is what lm-eval says about it, None where no score can be used.
    """

    entry: Record  # shortened, or where it is
    task: ScoredTask | None
    kept: KeptGrades

    @property
    def id(self) -> str:
        """The problem's id, task/document/repeat."""
        return str(self.entry["id"])

    def brief(self) -> Brief:
        """Return the problem's line in a list."""
        return brief(self.entry, self._told(self.entry))

    def story(self) -> Story:
        """Return the problem's story; of an unfinished run without right or wrong."""
        record = whole(self.entry)
        entry = cast(Any, {**shortened(record), "place": self.entry["place"]})
        return tell(record, self._told(entry, judged_texts(record)))

    def _told(self, entry: Record, texts: Sequence[str] | None = None) -> Assessment:
        """Return what the task says, by grading where nobody did: the `texts` too."""
        if self.task is None:
            return Assessment()
        name, items = self.task.task, self.task.docs
        item = items.get(document(self.id), {})
        grades = Grades()
        if self.task.graded is None or natural(self.id) < natural(
            f"{document(self.id)}/{self.task.graded}"
        ):
            grades = self.kept.get(entry, self.task.scores, items, judge(name), texts)
        right = None if texts is None else gold(name, item)  # lists do not show it
        return Assessment(own_question(entry, item.get("doc")), right, grades)


@contextmanager
def problems_of(folder: Path, *, stories: bool = False) -> Iterator[list[StoredProblem]]:
    """Give every problem of a run folder, also of one that is not finished; keep their grades.

    Then right or wrong is not known where no grader can say. With `stories`, only these can be
    asked for, and they take less memory. Raises `DataError` where there are no traces.
    """
    if not (folder / FILE).exists() and folder.is_dir() and not any(folder.glob("trace-rank*")):
        homes = find(folder)
        folder = homes[0] if len(homes) == 1 else folder
    check_schema(folder)
    there = entries(traces_of(folder))
    found = list(map(light, there)) if stories else list(there)
    found.sort(key=lambda entry: natural(entry["id"]))
    scored: dict[str, ScoredTask] = {}
    if files_of(folder, "samples_*.jsonl"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an unfinished run, which is fine here
                if finished(folder):
                    names = [entry["id"] for entry in found]
                    scored = {each.task: each for each in evaluations(folder, names)}
        except DataError as fault:
            warnings.warn(f"Shown without the task's scores. {fault}", stacklevel=3)
    with KeptGrades(traces_of(folder), rules()) as kept:
        yield [StoredProblem(entry, scored.get(task_of(entry["id"])), kept) for entry in found]


def pages_of(folders: Sequence[Path]) -> dict[str, TracePage]:
    """Return a page for every run at or below some folders, by file name."""
    pages: dict[str, TracePage] = {}
    homes = dict.fromkeys(home.resolve() for folder in folders for home in find(folder))
    for home in homes:
        name = re.sub(r"[^A-Za-z0-9._+-]+", "_", home.name) or "run"
        while name in {*pages, INDEX}:
            name += "_"
        manifest = read_manifest(home)
        title = home.name if manifest is None else manifest["name"]
        pages[name] = TracePage(title, _stories(home), _facts(home))
    return pages


def _stories(home: Path) -> Iterator[Story]:
    with problems_of(home, stories=True) as problems:
        for problem in problems:
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


def problem_lines(briefs: Sequence[Brief], width: int) -> Iterator[Text]:
    """Yield a heading and a line per problem; its question as far as there is room, or not at all.

    rich's own tables take milliseconds a row, and a run may have many thousands.
    """
    numbers = ("Reward", "Judged", "Kept", "Calls")
    headings = ("Problem", "Draft", "Answer", *numbers)
    rows = [list(map(Text, headings)), *map(_problem, briefs)]
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    room = min(width - sum(size + 2 for size in widths), 60)
    questions = ["Question", *(_line(each.question) for each in briefs)]
    for row, question in zip(rows, questions, strict=True):
        for cell, size, name in zip(row, widths, headings, strict=True):
            cell.align("right" if name in numbers else "left", size)
        if room >= 16:
            row.append(Text(question))
            row[-1].truncate(room, overflow="ellipsis")
        yield Text("  ").join(row)


def _problem(line: Brief) -> list[Text]:
    old, new = line.rewards
    cells = [rewards(old, new, 2) if line.revised else number(new, 2), str(line.judged)]
    cells += [str(line.accepted), number(line.calls, 0)]
    draft, answer = map(_right, line.right)
    if line.right[1] is False and (line.no_answer or line.truncated):
        answer = Text("cut off" if line.truncated else "no answer", style="red")
    return [Text(visible(line.id)), draft, answer, *map(Text, cells)]


def told(story: Story, whole: bool = False) -> Iterator[RenderableType]:
    """Yield one problem for the terminal, part by part; model text is never read as markup.

    Long texts of candidates are cut unless `whole`, which shows the whole prompt, too.
    """
    yield Text(visible(story.id), style="bold")
    yield Text(visible(story.prompt if whole else story.question))
    yield Text()
    yield _summary(story)
    for name, tokens in (("First draft", story.first), ("Answer", story.final)):
        if tokens is not None:
            yield Text.assemble("\n", (name, "bold"), "\n", _response(tokens))
    for step in story.steps:
        yield _step(step, None if whole else EXCERPT)
    for sample in story.samples:
        yield _sample(sample, None if whole else EXCERPT)
    if story.moves:
        yield Text()
        yield _moves(story.moves)


def _summary(story: Story) -> Table:
    """Return what became of the draft, what is right and what it took."""
    table = _table("", " ", fold=" ")
    table.show_header = False
    if story.gold is not None:
        table.add_row(Text("Gold answer"), Text(_line(story.gold)))
    rows = list(zip(("Draft", "Answer"), story.right, story.answers, _rewards(story), strict=True))
    for name, right, answer, reward in rows if story.final is not None else rows[1:]:
        more = ", cut off" if name == "Answer" and story.truncated else ""
        table.add_row(name, Text.assemble(_said(right, answer), f", reward {reward}{more}"))
    done = f"{len(story.steps)} candidates, {story.accepted} accepted"
    if story.samples:
        done = f"{len(story.samples)} drafts" + (f", {done}" if story.steps else "")
    if story.moves:
        chosen = sum(move.chosen for move in story.moves)
        done = f"{len(story.moves)} moves of the search, {chosen} of them to the answer"
    if story.choices and not story.steps:
        replaced = sum(choice.replaced for choice in story.choices)
        done = f"{len(story.choices)} guided tokens, {replaced} of them replaced (see `trace html`)"
    calls = f"{number(story.calls, 0)} model calls; ended: {visible(story.ended)}"
    table.add_row(Text("Search"), Text(f"{done}; {calls}"))
    return table


def _rewards(story: Story) -> list[str]:
    """Return both rewards, so that the larger one can be told."""
    return rewards(*story.rewards).split(" → ")


def _said(right: bool | None, answer: str | None) -> Text:
    """Return whether a response is right, and its answer."""
    if right is not None and answer is not None:
        return Text.assemble(_right(right), f", answers {_line(answer)}")
    return Text.assemble(_right(right), ", no answer" if right is False else "")


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


def _step(step: StoryStep, most: int | None) -> RenderableType:
    """Tell a candidate, beside what it was to replace; of what follows, so many characters."""
    before = _tail(step.shared)
    gradient = {
        "taken": f"gradient norm {number(step.gradient_norm, 3)}",
        "certified": "certified: no gradient could change the draw",
        "alone": "certified: min_probability allowed no other token",
        "none": "no gradient",
    }
    head = Text.assemble(
        f"\n{step.index + 1}. ", (step.verdict, VERDICTS[step.verdict]),
        f"  token {step.position}: ", (before[-30:], "dim"), (_line(step.old_text), "bold red"),
        " → ", (_line(step.new_text), "bold green"),
        f"   reward {rewards(step.old_reward, step.new_reward)}\n   ",
        _said(step.right, step.answer),
        f"   sweep {step.sweep + 1}   entropy {number(step.entropy, 3)} nats   ",
        gradient[step.gradient],
    )  # fmt: skip
    sides = (
        ("-", step.old_text, "bold red", step.old_rest),
        ("+", step.new_text, "bold green", step.new_rest),
    )
    return Group(
        head,
        *(
            _aside(f"{sign} ", (before, "dim"), (_line(token), style), _line(_cut(rest, most)))
            for sign, token, style, rest in sides
        ),
    )


def _aside(*parts: str | tuple[str, str]) -> RenderableType:
    """Return a paragraph below what it belongs to, each of its lines indented."""
    return Padding(Text.assemble(*parts), (0, 0, 0, 3))


def _sample(sample: Sample, most: int | None) -> RenderableType:
    returned = "   returned" if sample.returned else ""
    head = Text.assemble(
        f"\n{sample.index + 1}. ", ("draft", "bold"), "  ", _said(sample.right, sample.answer),
        f"   reward {number(sample.reward, 3)}", (returned, "bold green"),
    )  # fmt: skip
    return Group(head, _aside(_line(_cut(sample.text, most))))


def _tail(text: str) -> str:
    shown = _line(text)
    return shown if len(shown) <= 60 else f"…{shown[-60:]}"


def _cut(text: str, most: int | None) -> str:
    if most is None or len(text) <= most + 20:
        return text
    return f"{text[:most]}… ({len(text) - most:,} more characters)"


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
