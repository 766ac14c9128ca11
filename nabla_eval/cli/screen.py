"""rich's console for text of others: it reads no markup, emoji codes, links or escapes in it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from nabla_eval.terminal import visible


class Screen(Console):
    """A console on stdout, stderr or a file, as they are now: `quiet` may redirect them later."""

    def __init__(self, file: TextIO | None = None, *, err: bool = False) -> None:
        stream = file or (sys.stderr if err else sys.stdout)
        super().__init__(file=stream, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            if control:
                yield Segment(text, style, control)
            else:
                yield Segment(visible(text), style and style.update_link(None))
