"""One problem as notebooks and terminals display it: the response with its revised tokens marked.

The page is the trace viewer's, without its script: the same marks and colours, from the same style
sheet, which is kept to the element. Where a notebook's host strips styles, bold letters stay.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

from nabla_eval.analysis.grades import Graded, Grades
from nabla_eval.reporting.story import Assessment, Story, StoryStep, Token, tell
from nabla_eval.reporting.text import TEMPLATES, number, rewards, templates
from nabla_eval.terminal import visible
from nabla_eval.traces.index import whole
from nabla_eval.traces.schema import Record

SHOWN = 12  # candidates that are listed
TOKENS = 2500  # of each response, with their numbers: half a megabyte of a notebook
# Of notebooks whose colours need not be the system's: JupyterLab's, VS Code's.
_THEMES = (
    'body[data-jp-theme-light="true"], body.vscode-light',
    'body[data-jp-theme-light="false"], body.vscode-dark',
)


class Told(Story):
    """A story that a notebook shows as HTML, and `print` as text."""

    def _repr_html_(self) -> str:
        page = templates().get_template("problem.html.jinja")
        entropies = [t.entropy for t in (*self.first, *(self.final or ())) if t.entropy is not None]
        return str(
            page.render(
                story=self, facts=facts(self), style=_style(), visible=visible, describe=describe,
                most=max(filter(math.isfinite, entropies), default=0.0), shown=SHOWN,
                rewards=rewards, tokens_shown=TOKENS,
            )
        )  # fmt: skip

    def __repr__(self) -> str:
        parts = [facts(self), f"\n{visible(self.question)}\n", marked(self.final or self.first)]
        if self.final is not None:
            parts.insert(2, f"{marked(self.first)}\n  was revised to")
        parts += ["", *map(_line, self.steps[:SHOWN])] if self.steps else []
        if len(self.steps) > SHOWN:
            parts.append(f"  and {len(self.steps) - SHOWN} more")
        return "\n".join(parts)


def story(problem: Mapping[str, Any]) -> Told:
    """Return what happened on one problem: a row of `frame`'s answers, or a record of a trace.

    A notebook shows it as the trace viewer does, `print` as text; its fields hold the same, above
    all `steps`, the judged candidates, and `first` and `final`, the responses token by token.

    Example:
        >>> answers, _ = nabla_eval.frame("results/demo/nabla")
        >>> nabla_eval.story(answers.loc[3])
    """
    stored, score = problem.get("record", problem), problem.get("score")
    right = bool(score) if score in (0, 1) else None
    known = Assessment(grades=Grades(final=Graded(right)))
    return Told(**vars(tell(whole(cast(Record, stored)), known)))


def facts(story: Story) -> str:
    """Say in a line how a problem went."""
    rights = {True: ["right"], False: ["wrong"], None: []}[story.right[1]]
    first, last = story.rewards
    reward = rewards(first, last) if story.revised and first is not None else number(last, 3)
    found = [*([story.id] if story.id else []), *rights, f"reward {reward}"]
    if story.steps:
        found.append(f"{story.accepted} of {story.judged} candidates accepted")
    if story.moves:
        found.append(f"{len(story.moves)} moves")
    return visible(" · ".join([*found, f"{story.calls:.0f} model calls", f"ended: {story.ended}"]))


def describe(token: Token, place: int) -> str:
    """Say what is known of a token."""
    parts = [f"token {place}"]
    if token.entropy is not None:
        parts.append(f"entropy {number(token.entropy, 3)} nats")
    if token.norm is not None:
        parts.append(f"gradient norm {token.norm:.3g}")
    if token.by is not None:
        done = "revised" if token.revised else "rolled out"
        parts.append(f"{done} by candidate {token.by + 1}")
    return " · ".join(parts)


def marked(tokens: Sequence[Token]) -> str:
    """Return a response with its revised tokens in brackets."""
    words = ((visible(token.text), token.revised) for token in tokens)
    return "".join(f"⟦{word}⟧" if revised else word for word, revised in words)


def _line(step: StoryStep) -> str:
    old, new = (visible(text).replace("\n", "↵") for text in (step.old_text, step.new_text))
    changed = f"{step.verdict:<8}  token {step.position}: {old} → {new}"
    return f"  {step.index + 1}. {changed}  reward {rewards(step.old_reward, step.new_reward)}"


@cache
def _style() -> str:
    """Return the viewer's style sheet for one element, in the colours of its notebook."""
    css = (TEMPLATES / "viewer.css").read_text(encoding="utf-8")
    palettes = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]  # light and dark, before print's
    chosen = (f":is({of}) & {{{colours}}}" for of, colours in zip(_THEMES, palettes, strict=True))
    own = (
        "&, & table { background: var(--paper); color: var(--ink); font-size: .875rem; } "
        "& { padding: .25rem .75rem; }"
    )
    inner = " ".join((css.replace(":root", "&"), own, *chosen))
    return f".nabla-problem {{ {' '.join(inner.split())} }}"
