"""The page of `report all` in a real browser: complete, readable, inert, and asking for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from chromium import Browser, executable
from run_folders import BEST_OF_N, NABLA, candidate, record, write_run

from nabla_eval.analysis.study import load
from nabla_eval.reporting.page import Page, all_reports, facts_of, write_page
from nabla_eval.reporting.problems import problem_rows, problems_table
from nabla_eval.reporting.story import tell
from nabla_eval.reporting.viewer import TracePage, write_pages
from nabla_eval.traces.index import whole

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(executable() is None, reason="no Chromium or Chrome is installed"),
]
HOSTILE = (
    "</td></script><script>document.title='owned'</script><img src='https://x.invalid/' "
    "onerror=\"document.title='owned'\"><a href='javascript:alert(1)'>x</a>\x1b[31m\u202e"
)


@pytest.fixture(scope="module")
def page(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Three runs whose models, texts, title and warnings are hostile."""
    folder = tmp_path_factory.mktemp("report")
    models = {"policy": HOSTILE, "policy_hash": "p", "reward": HOSTILE, "reward_hash": "r"}
    for name, method, config in (
        ("nabla", "nabla", NABLA),
        ("twin", "nabla", {**NABLA, "steps": 0}),
        ("best", "best_of_n", BEST_OF_N),
    ):
        judged = [candidate("rejected"), candidate("accepted", index=1)]
        records = [
            record(i, method=method, config=config, text=HOSTILE, prompt=HOSTILE, models=models,
                   candidates=judged if method == "nabla" else (),
                   drafts=[float(d) for d in range(8)], reward=float(i), calls=10.0 + 7 * i % 12)
            for i in range(12)
        ]  # fmt: skip
        write_run(folder / name, records, [float(i % 3 > 0) for i in range(12)])
    runs = load([folder])
    _, *pages = write_pages(
        {
            run.name: TracePage(run.name, map(tell, run.answers["record"].map(whole)))
            for run in runs
        },
        folder / "out" / "traces",
    )
    links = {
        run.folders[0]: f"traces/{quote(path.name)}" for run, path in zip(runs, pages, strict=True)
    }
    made = Page(
        HOSTILE, f"nabla-eval {HOSTILE}", all_reports(runs), [HOSTILE], facts_of(runs),
        problems_table(problem_rows(runs, links)),
    )  # fmt: skip
    write_page(made, folder / "out")
    address = (folder / "out" / "report.html").as_uri()
    chromium.requests.clear()
    chromium.messages.clear()
    chromium.open(address)
    yield chromium
    chromium.run("0")  # what was logged meanwhile has arrived after this
    assert [url for url in chromium.requests if not url.startswith("data:")] == [address]
    assert chromium.messages == []


def test_every_section_is_there_and_every_figure_is_drawn(page: Browser) -> None:
    names = page.run("[...document.querySelectorAll('section')].map((node) => node.id)")
    assert names[0] == "overview"
    assert {"accuracy", "rejection", "cost", "scaling", "reward", "problems", "made"} <= set(names)
    links = page.run("[...document.querySelectorAll('nav a')].map((a) => a.hash.slice(1))")
    assert links == names
    sizes = page.run("[...document.images].map((i) => [i.complete, i.naturalWidth > 100, i.alt])")
    assert len(sizes) >= 4 and all(done and wide and alt for done, wide, alt in sizes)


def test_hostile_text_is_shown_and_inert(page: Browser) -> None:
    assert page.run("document.title").startswith("</td></script><script>")
    assert page.run("document.querySelectorAll('[onerror]').length") == 0
    assert page.run("document.querySelectorAll('script').length") == 1
    links = page.run("[...document.links].map((a) => a.getAttribute('href'))")
    assert {link.partition("/")[0] for link in links if link[0] != "#"} == {"traces"}
    shown = page.run("document.body.textContent")
    assert "\\x1b[31m\\u202e" in shown and "\x1b" not in shown and "\u202e" not in shown


def column(page: Browser, place: int) -> list[str]:
    """The cells that are visible in a column of the table of problems."""
    return page.run(
        "[...document.querySelectorAll('#problems tbody tr')].filter((row) => !row.hidden)"
        f".map((row) => row.cells[{place}].textContent)"
    )


def test_a_click_sorts_and_the_third_one_is_as_it_was(page: Browser) -> None:
    heads = page.run("[...document.querySelectorAll('#problems th')].map((th) => th.textContent)")
    for name, value in (("Calls", float), ("Problem", lambda cell: int(cell.partition("/")[0]))):
        place = heads.index(name)
        before = column(page, place)
        assert len(before) == 36 and before != sorted(before, key=value, reverse=True)
        for turn in ("descending", "ascending") if value is float else ("ascending", "descending"):
            page.run(f"document.querySelectorAll('#problems th button')[{place}].click()")
            head = f"document.querySelectorAll('#problems th')[{place}]"
            assert page.run(f"{head}.getAttribute('aria-sort')") == turn
            wanted = sorted(before, key=value, reverse=turn == "descending")
            assert [*map(value, column(page, place))] == [*map(value, wanted)]
        page.run(f"document.querySelectorAll('#problems th button')[{place}].click()")
        assert column(page, place) == before


def test_a_search_narrows_the_problems(page: Browser) -> None:
    for asked, rows in (("twin 11/", 1), ("best_of_n", 12), ("nowhere", 0), ("", 36)):
        page.run(
            f"(field => {{ field.value = '{asked}'; field.dispatchEvent(new Event('input')); }})"
            "(document.querySelector('input[type=search]'))"
        )
        assert len(column(page, 0)) == rows


def test_print_leaves_out_what_only_a_screen_needs(page: Browser) -> None:
    page.ask("Emulation.setEmulatedMedia", media="print")
    shown = """(selector) => [...document.querySelectorAll(selector)]
      .filter((node) => getComputedStyle(node).display !== 'none').length"""
    assert page.run(f"['nav', '.search', '#problems table'].map({shown})") == [0, 0, 1]
    assert page.run("document.querySelector('#problems table').offsetParent === null")
    assert page.run(f"({shown})('main > section:not(#problems) table')") > 10
    assert page.run("getComputedStyle(document.querySelector('th button')).display") == "contents"
    page.ask("Emulation.setEmulatedMedia", media="")


def test_a_row_opens_its_problem_in_the_viewer(page: Browser) -> None:
    address = page.run("document.querySelector('#problems tbody tr:last-child a').href")
    here = page.run("location.href")
    page.open(address)
    shown = page.run("document.querySelector('#story h2').textContent")
    page.open(here)
    page.requests[:] = [here]
    assert shown == "toy/11/0"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 380])
def test_it_fits_and_can_be_read(page: Browser, tmp_path: Path, scheme: str, width: int) -> None:
    """Contrast by WCAG 2.1 (4.5 at least); only tables scroll sideways, never the page."""
    page.screenshot(tmp_path / "page.png", scheme=scheme, width=width)
    assert page.run("document.documentElement.scrollWidth") <= width
    contrast = """(() => {
      const channels = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const light = (text) => channels(text).map((v) => linear(v / 255))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const style = (selector) => getComputedStyle(document.querySelector(selector));
      const paper = light(style('body').backgroundColor);
      return [
        ...['body', 'nav a', 'th', '.note', 'figcaption', 'dt']
          .map((selector) => ratio(light(style(selector).color), paper)),
        ratio(light(style('.warning').color), light(style('.warning').backgroundColor)),
        ratio(light(style('code').color), light(style('code').backgroundColor)),
      ];
    })()"""
    assert min(page.run(contrast)) >= 4.5
