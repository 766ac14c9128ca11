"""One problem in a notebook and in a terminal: marked as in the viewer, and inert."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from large_runs import large_record
from run_folders import record
from told_runs import HOSTILE, searched_records, told_records, write_told_run

import nabla_eval
from nabla_eval.reporting.display import SHOWN, TOKENS, rewards, story
from nabla_eval.terminal import visible
from nabla_eval.traces.schema import seal


class Elements(HTMLParser):
    """The elements of a page with their attributes and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_revised_tokens_are_marked_with_their_candidate() -> None:
    shown = story(told_records()[0])
    page = Elements(shown._repr_html_())
    classes = [more["class"] for _, more in page.found if "title" in more]
    assert classes == ["token"] * 6 + ["token revised", "token rolled"]
    (revised,) = (more for tag, more in page.found if tag == "b")
    assert revised["title"] == "token 2 · entropy 1.500 nats · revised by candidate 2"
    assert "132=4" in "".join(page.texts)  # the token, and the candidate's number
    assert "a+12=7\n  was revised to\na+⟦13⟧=4\n" in str(shown)
    assert "  2. accepted  token 2: 12 → 13  reward 0.000 → 1.000" in str(shown)


def test_model_text_is_neither_markup_nor_unseen() -> None:
    shown = story(told_records()[2])
    page = Elements(shown._repr_html_())
    assert {tag for tag, _ in page.found} <= {
        "div", "style", "p", "pre", "b", "span", "sup", "details", "summary", "table", "tr", "th",
        "td", "code",
    }  # fmt: skip
    assert not any(name.startswith("on") for _, more in page.found for name in more)
    assert visible(HOSTILE) in page.texts
    for text in (shown._repr_html_(), str(shown)):
        assert all(c == "\n" or c.isprintable() for c in text)


def test_the_style_sheet_is_the_viewers_and_stays_inside() -> None:
    (style,) = re.findall("<style>(.*?)</style>", story(record(0))._repr_html_(), re.DOTALL)
    assert style.startswith(".nabla-problem {") and style.count("{") == style.count("}")
    assert ":root" not in style and ".token.revised" in style
    for theme in ("prefers-color-scheme: dark", 'theme-light="false"', "vscode-dark"):
        assert theme in style


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (0.0, 1.0, "0.000 → 1.000"),
        (0.07701, 0.07704, "0.07701 → 0.07704"),
        (0.5, 0.5, "0.500 → 0.500"),
        (0.5, float("nan"), "0.500 → –"),
        (0.5, None, "0.500 → –"),
    ],
)
def test_a_rise_is_seen_however_small(old: float, new: float | None, words: str) -> None:
    assert rewards(old, new) == words


def test_a_row_of_the_frame_is_told_with_its_score(tmp_path) -> None:
    answers, _ = nabla_eval.frame(write_told_run(tmp_path / "run"))
    shown = [nabla_eval.story(answers.loc[i]) for i in range(3)]
    assert [each.right[1] for each in shown] == [True, False, False]
    assert str(shown[0]).startswith("toy/0/0 · right · reward 0.000 → 1.000 · 1 of 2 candidates")


def test_a_long_response_stays_small_and_says_what_is_left_out() -> None:
    shown = story(json.loads(seal(large_record(0, 7, TOKENS + 1234))))._repr_html_()
    assert shown.count("… 1,234 more tokens") == 2 and len(shown) < 1_000_000


def test_long_lists_are_cut_and_searches_are_told() -> None:
    line = told_records()[0]
    many = [{**line["candidates"][0], "index": i} for i in range(SHOWN + 3)]
    shown = story({**line, "candidates": many})
    assert "and 3 more" in str(shown) and "and 3 more" in shown._repr_html_()
    assert "4 moves" in str(story(searched_records()[0]))
