"""The trace viewer in a real browser: it shows, filters, answers to keys, and lets nothing out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, executable
from told_runs import HOSTILE, IDS, searched_records, told_records

from nabla_eval.analysis.grades import Graded, Grades
from nabla_eval.reporting import viewer
from nabla_eval.reporting.story import Assessment, tell
from nabla_eval.reporting.viewer import TracePage, beside, visible, write_pages

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome is installed"),
]
ITEMS = "[...document.querySelectorAll('#list .name')].map((node) => node.textContent)"


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Iterator[Browser]:
    """The viewer of the known run, opened afresh; afterwards nothing may have been logged."""
    rights = [(False, True), (True, False), (False, False)]
    known = [Assessment(gold="4", grades=Grades(*map(Graded, right))) for right in rights]
    stories = map(tell, told_records(), known)
    (path,) = write_pages({"run": TracePage(HOSTILE, stories, {"n": "8"})}, tmp_path)
    chromium.requests.clear()
    chromium.messages.clear()
    chromium.open(path.as_uri())
    yield chromium
    chromium.run("0")  # what was logged meanwhile has arrived after this
    assert chromium.requests == [path.as_uri()]
    assert chromium.messages == []


def choose(page: Browser, name: str, value: str) -> None:
    page.run(
        f"{{const node = document.getElementById('{name}'); node.value = '{value}';"
        "node.dispatchEvent(new Event('change'));}"
    )


def text(page: Browser, selector: str) -> str:
    found: str = page.run(f"document.querySelector({selector!r}).textContent")
    return found


def test_the_first_problem_is_shown_with_its_story(page: Browser) -> None:
    assert page.run(ITEMS) == list(IDS)
    assert text(page, "#story h2") == IDS[0]
    assert text(page, "#count") == "3 of 3 problems"
    assert text(page, ".tokens").replace("2", "", 1) == "a+13=4"  # with the candidate's number
    assert text(page, ".token.revised") == "132"
    sides = page.run("[...document.querySelectorAll('.sides .text')].map((n) => n.textContent)")
    assert sides == ["a+12=7", "a+1=9", "a+12=7", "a+13=4"]
    assert "first drafts right: 1" in text(page, "#summary")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wrong-right", [IDS[0]]),
        ("right-wrong", [IDS[1]]),
        ("stayed-wrong", [IDS[2]]),
        ("stayed-right", []),
        ("revised", [IDS[0], IDS[1]]),
        ("all", list(IDS)),
    ],
)
def test_filters_keep_what_they_say(page: Browser, name: str, expected: list[str]) -> None:
    choose(page, "filter", name)
    assert page.run(ITEMS) == expected
    if expected:
        assert text(page, "#story h2") == expected[0]
    options = page.run(
        "[...document.querySelectorAll('#filter option')].map((n) => [n.value, n.textContent])"
    )
    assert f"({len(expected)})" in dict(options)[name]


def test_order_and_search(page: Browser) -> None:
    choose(page, "order", "steps")
    assert page.run(ITEMS)[0] == IDS[0]
    page.run(
        "{const node = document.getElementById('search'); node.value = 'TOY/1';"
        "node.dispatchEvent(new Event('input'));}"
    )
    assert page.run(ITEMS) == [IDS[1]]


def test_hostile_text_is_shown_and_inert(page: Browser) -> None:
    page.run("document.querySelectorAll('#list button')[2].click()")
    assert text(page, "#story .text") == visible(HOSTILE)
    assert text(page, ".token") == visible(HOSTILE)
    assert "\\x1b[31mred\\x00\\u202eabc" in text(page, "#story")
    assert page.run("document.title") == visible(HOSTILE)
    assert page.run("document.querySelectorAll('img, main script, main b').length") == 0


def test_the_keyboard_is_enough(page: Browser) -> None:
    page.run("document.querySelector('#list button').focus()")
    page.press("ArrowDown")
    page.press("Enter")
    assert text(page, "#story h2") == IDS[1]
    assert page.run("document.activeElement.id") == "story"
    page.run("document.querySelector('.token').focus()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert page.run("document.activeElement.textContent") == "c1"
    assert "token 2" in text(page, "#detail")
    stops = page.run("document.querySelectorAll('.token[tabindex=\"0\"]').length")
    assert stops == 1  # one stop for the tab key, however long the response


def test_tokens_are_coloured_by_what_is_chosen(page: Browser) -> None:
    choose(page, "version", "first")
    share = "document.querySelectorAll('.token')[2].style.getPropertyValue('--heat-share')"
    assert float(page.run(share)) == 0.75  # of 2 nats, the most in the run
    assert "nats or more" in text(page, ".legend")
    choose(page, "colour", "norm")
    assert float(page.run(share)) == 1.0 and "8.25 or more" in text(page, ".legend")
    choose(page, "colour", "none")
    assert float(page.run(share)) == 0.0
    page.run("document.querySelectorAll('.token')[2].dispatchEvent(new Event('mouseenter'))")
    assert "entropy 1.500 nats · gradient norm 8.25" in text(page, "#detail")


def test_everything_has_a_name_for_a_screen_reader(page: Browser) -> None:
    page.ask("Accessibility.enable")
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    page.ask("Accessibility.disable")
    controls = {"button", "combobox", "searchbox", "navigation"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in controls
    ]
    assert {"combobox", "searchbox", "button", "navigation"} <= {role for role, _ in named}
    assert all(name for role, name in named), named
    assert "Response, token by token" in [
        node.get("name", {}).get("value") for node in nodes if not node["ignored"]
    ]
    assert page.run("document.documentElement.lang") == "en"
    assert page.run("document.getElementById('count').getAttribute('role')") == "status"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(page: Browser, scheme: str) -> None:
    """WCAG's contrast of at least 4.5 between text and paper, also on the strongest colour."""
    page.ask(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    choose(page, "version", "first")
    contrast = """(() => {
      const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
      const brush = canvas.getContext('2d', { willReadFrequently: true });
      const over = (...colours) => {
        for (const colour of colours) { brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1); }
        return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3);
      };
      const light = (rgb) => {
        const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = rgb.map((v) => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const style = (selector, at = 0) => getComputedStyle(document.querySelectorAll(selector)[at]);
      const paper = style('body').backgroundColor, panel = style('.tokens').backgroundColor;
      const hot = style('.token', 2);
      return [
        ratio(light(over(style('body').color)), light(over(paper))),
        ratio(light(over(style('#summary').color)), light(over(paper))),
        ratio(light(over(hot.color)), light(over(paper, panel, hot.backgroundColor))),
      ];
    })()"""
    assert min(page.run(contrast)) >= 4.5


def test_a_search_is_a_tree_of_lists_with_the_answers_path_marked(
    chromium: Browser, tmp_path: Path
) -> None:
    page = TracePage("search", [tell(record) for record in searched_records()])
    (path,) = write_pages({"search": page}, tmp_path)
    chromium.requests.clear()
    chromium.messages.clear()
    chromium.open(path.as_uri())
    moves = "[...document.querySelectorAll('%s > code')].map((node) => node.textContent)"
    assert chromium.run(moves % ".tree > li") == ["a;", "b;"]
    assert chromium.run(moves % ".tree > li > ol > li") == [visible(HOSTILE), "c=4"]
    assert chromium.run(moves % ".chosen") == ["b;", "c=4"]
    said = chromium.run("[...document.querySelectorAll('.chosen')].at(-1).textContent")
    assert said.startswith("→ in the answer") and "value 1.500 · 1 visits · complete" in said
    assert text(chromium, ".note").startswith("cut off </script>")
    assert chromium.run("document.querySelectorAll('main img, main script').length") == 0
    assert "4 moves" in text(chromium, "#list .sub") and "6 moves" in text(chromium, "#summary")
    chromium.run("document.querySelectorAll('#list button')[1].click()")
    kinds = "[...document.querySelectorAll('.tree .kind')].map((node) => node.textContent)"
    assert chromium.run(kinds) == ["critique", "revision"]
    assert chromium.requests == [path.as_uri()] and chromium.messages == []


@pytest.fixture
def large(chromium: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page of 1,203 problems in parts of a few, opened from the disk."""
    monkeypatch.setattr(viewer, "PART", 40_000)
    records = [
        {**record, "id": f"toy/{3 * i + place}/0"}
        for i in range(401)
        for place, record in enumerate(told_records())
    ]
    (path,) = write_pages({"a run+1": TracePage(HOSTILE, map(tell, records))}, tmp_path)
    chromium.requests.clear()
    chromium.messages.clear()
    chromium.open(path.as_uri())
    yield path
    chromium.run("0")


def shown(page: Browser, name: str) -> None:
    """Wait until a problem is shown."""
    page.run(
        "new Promise((done) => { const look = () => "
        f"document.querySelector('#story h2')?.textContent === {name!r} ? done(true)"
        " : setTimeout(look, 10); look(); })"
    )


def test_a_large_run_loads_the_part_of_the_problem_that_is_shown(
    chromium: Browser, large: Path
) -> None:
    shown(chromium, "toy/0/0")
    parts = len(list(beside(large).iterdir()))
    assert parts > 10 and len(chromium.requests) == 2  # the page and one part
    assert text(chromium, ".token.revised") == "132"
    assert text(chromium, "#count") == "1203 of 1203 problems"
    chromium.run("document.querySelectorAll('#list button')[302].click()")
    shown(chromium, "toy/302/0")
    assert text(chromium, "#story .text") == visible(HOSTILE)
    chromium.run("document.querySelectorAll('#list button')[301].click()")
    shown(chromium, "toy/301/0")
    assert len(chromium.requests) == 3  # both are in one part
    for place in range(0, 500, 50):
        chromium.run(f"document.querySelectorAll('#list button')[{place}].click()")
        shown(chromium, f"toy/{place}/0")
    assert chromium.run("PARTS.size") == chromium.run("KEPT") < parts
    names = {url.rpartition("/")[2].partition("-")[0] for url in chromium.requests[1:]}
    assert names == {"part"} and chromium.messages == []
    assert chromium.run("document.title") == visible(HOSTILE)
    assert chromium.run("document.querySelectorAll('img, main script, main b').length") == 0


def test_a_large_run_is_listed_piece_by_piece_and_found_by_name(
    chromium: Browser, large: Path
) -> None:
    shown(chromium, "toy/0/0")
    buttons = "document.querySelectorAll('#list button').length"
    assert chromium.run(buttons) == 501
    chromium.run("[...document.querySelectorAll('#list button')].at(-1).click()")
    assert chromium.run(buttons) == 1001
    assert chromium.run("document.activeElement.querySelector('.name').textContent") == "toy/500/0"
    chromium.run("[...document.querySelectorAll('#list button')].at(-1).click()")
    assert chromium.run(buttons) == 1203
    chromium.run(
        "{const node = document.getElementById('search'); node.value = 'toy/1202/';"
        "node.dispatchEvent(new Event('input'));}"
    )
    shown(chromium, "toy/1202/0")
    assert chromium.run(ITEMS) == ["toy/1202/0"]
    choose(chromium, "colour", "norm")
    assert "8.25 or more" in text(chromium, "#story") or "1 or more" in text(chromium, "#story")
    assert chromium.messages == []


def test_a_page_without_its_folder_says_what_is_missing(chromium: Browser, large: Path) -> None:
    shown(chromium, "toy/0/0")
    beside(large).rename(beside(large).with_name("elsewhere"))
    chromium.run("document.querySelectorAll('#list button')[400].click()")
    shown(chromium, "toy/400/0")
    assert "a run+1-problems" in text(chromium, "#story p")
    assert "not there" in text(chromium, "#story p")
    beside(large).with_name("elsewhere").rename(beside(large))
    chromium.run("document.querySelectorAll('#list button')[400].click()")
    chromium.run(
        "new Promise((done) => { const look = () => document.querySelector('.token')"
        " ? done(true) : setTimeout(look, 10); look(); })"
    )


def test_the_page_of_a_large_run_lets_no_other_script_in(chromium: Browser, large: Path) -> None:
    shown(chromium, "toy/0/0")
    chromium.run(
        "document.body.insertAdjacentHTML('beforeend', '<script>document.title = 1</scr' + 'ipt>'"
        " + '<img src=x onerror=\"document.title = 2\">')"
    )
    chromium.run("new Promise((done) => setTimeout(done, 200))")
    assert chromium.run("document.title") == visible(HOSTILE)
    assert any("Content Security Policy" in message for message in chromium.messages)


def test_a_candidate_says_where_it_is_what_it_answers_and_why_no_gradient_was_taken(
    chromium: Browser, tmp_path: Path
) -> None:
    (record, *_) = told_records()
    rest = "so x is 4. " * 60
    for step in record["candidates"]:
        step |= {"gradient_norm": None, "certified": True, "old_reward": 0.0770}
        step |= {"new_reward": 0.0774, "text": rest + step["text"], "context": "4. a+"}
        step["stop"] = "length"
    record["drafts"][0]["text"] = rest + record["drafts"][0]["text"]
    record["outcome"] |= {"text": rest + "a+13=4", "stop": "length"}
    grades = Grades(Graded(False, "7"), Graded(False, None), (Graded(False, "9"), Graded()))
    page = TracePage("r", [tell(record, Assessment("What is x?", "4", grades))])
    (path,) = write_pages({"run": page}, tmp_path)
    chromium.open(path.as_uri())
    assert text(chromium, "#list .asked") == text(chromium, "#story .text") == "What is x?"
    assert text(chromium, ".prompt .text") == "question 0"
    said = text(chromium, ".outcome")
    assert "Gold answer4" in said and "✗ wrong · no answer found" in said
    assert "cut off at the length limit" in said and "ended: n used up" in said
    first = text(chromium, ".step")
    assert "x is 4. so x is 4. so x is 4. a+12 1=9" in first and "✗ wrong · answers 9" in first
    assert "certified: no gradient could change" in first and "reward 0.0770 → 0.0774" in first
    side = "document.querySelector('.sides .text')"
    assert "characters that both share" in chromium.run(f"{side}.textContent")
    chromium.run(f"{side}.querySelector('button').click()")
    assert chromium.run(f"{side}.textContent") == rest + "a+12=7"


def test_runs_stand_side_by_side_and_cells_lead_to_their_problems(
    chromium: Browser, tmp_path: Path
) -> None:
    pages = {}
    for name, rights in (("one", [True, False, True]), ("two", [True, True])):
        known = [Assessment(grades=Grades(final=Graded(right))) for right in rights]
        stories = map(tell, told_records()[: len(rights)], known)
        pages[name] = TracePage(f"{name} {HOSTILE}", list(stories))
    index, *_ = write_pages(pages, tmp_path)
    chromium.messages.clear()
    chromium.open(index.as_uri())
    rows = "[...document.querySelectorAll('#rows tr')].map((row) => row.textContent)"
    assert len(chromium.run(rows)) == 3
    assert text(chromium, "#totals").startswith("All2 of 3 right10 calls a problem2 of 2 right")
    choose(chromium, "filter", "differ")
    (row,) = chromium.run(rows)
    assert row.startswith("toy/1/0question 1✗ wrong10 calls · reward 2.000✓ right")
    choose(chromium, "filter", "missing")
    assert chromium.run(rows)[0].endswith("–")
    choose(chromium, "filter", "differ")
    leads = chromium.run("document.querySelectorAll('#rows a')[1].href")
    assert leads == (tmp_path / "two.html").as_uri() + "#toy%2F1%2F0"
    chromium.open(leads)
    assert text(chromium, "#story h2") == "toy/1/0"
    back = "[...document.querySelectorAll('#story .hint a, #runs a')].map((a) => a.href)"
    assert chromium.run(back) == [
        (tmp_path / "index.html").as_uri(), (tmp_path / "one.html").as_uri() + "#toy%2F1%2F0",
    ]  # fmt: skip
    assert chromium.messages == []
