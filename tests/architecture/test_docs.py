"""What the pages say is there: sections, files, links, options with their defaults, commands."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from nabla_eval.cli.main import main
from nabla_eval.harness.arguments import COMMON_NAMES
from nabla_eval.methods.registry import METHODS, option_names
from nabla_eval.options import Budget, Sampling, leaves
from nabla_eval.runs.command import Evaluation, compose

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
CODE = ("nabla_eval", "theory", "examples", "tests", "reports", "startup", "tasks", "docs")
TEXT = {".py", ".md", ".yaml", ".jinja", ".sh", ".toml"}
# "DESIGN 3.8", also "DESIGN 4, 6" and with a line's end after the word.
NUMBER = r"\d+(?:\.\d+)*"
REFERENCE = re.compile(rf"\bDESIGN\b(?:[\s#]+({NUMBER}(?:(?:, | and ){NUMBER})*)|(?! n\b))")
PLACES = re.compile(r"(?:nabla_eval|theory|examples|tests|reports|docs|startup|tasks)/[\w./*-]*")
COMMON = {*leaves(Budget), *leaves(Sampling)}  # described once, for every method
EXPERIMENTAL = (ROOT / "nabla_eval/experimental").is_dir()  # the package works without it
# Headings of docs/methods.md, and the methods whose options stand below.
SECTIONS = {
    "nabla": ["nabla"],
    "best_of_n, weighted_best_of_n, self_consistency": [
        "best_of_n", "weighted_best_of_n", "self_consistency",
    ],
    "Searches: beam, dvts, particle_filtering, tree_of_thought, rap": [
        "beam", "dvts", "particle_filtering", "tree_of_thought", "rap",
    ],
    "tpo": ["tpo"],
    "prefix_gradient, locate_repair and their controls": [
        "prefix_gradient", "locate_repair", "sequential_verify", "exact_top_k",
    ],
}  # fmt: skip


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def texts() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    for folder in CODE:
        yield from (file for file in (ROOT / folder).rglob("*") if file.suffix in TEXT)


def unresolved(text: str, sections: set[str]) -> list[str]:
    """References to the design that name no section of it."""
    return [
        found[0]
        for found in REFERENCE.finditer(text)
        if not found[1] or not set(re.split(r", | and ", found[1])) <= sections
    ]


def test_every_reference_to_the_design_leads_to_a_section() -> None:
    sections = set(re.findall(r"^##+ (\d+(?:\.\d+)*)\.? ", read("docs/design.md"), re.MULTILINE))
    lost = {str(file): unresolved(file.read_text(encoding="utf-8"), sections) for file in texts()}
    lost.pop(__file__)
    assert {file: names for file, names in lost.items() if names} == {}
    assert unresolved("(DESIGN 3.4, 99), DESIGN says, DESIGN\n# 98", sections) == [
        "DESIGN 3.4, 99", "DESIGN", "DESIGN\n# 98",
    ]  # fmt: skip


def test_the_readme_of_the_tests_support_lists_its_modules() -> None:
    listed = set(re.findall(r"`(\w+)\.py`", read("tests/support/README.md")))
    assert listed - {"conftest"} == {
        file.stem for file in (ROOT / "tests" / "support").glob("*.py")
    }


def test_the_readme_is_short() -> None:
    assert len(read("README.md").encode()) <= 10_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    words = re.findall(r"`([^`\s]+)`", text)
    if page.name == "design.md":  # there, paths are relative to the package
        named = [w for w in words if re.fullmatch(r"[\w./*-]+(/|\.(py|md|txt|yml|toml))", w)]
    else:
        named = [word for word in words if PLACES.fullmatch(word)]
    places = (ROOT, ROOT / "nabla_eval")
    absent = [name for name in named if not any(list(p.glob(name.rstrip("/"))) for p in places)]
    gone = set() if EXPERIMENTAL else {n for n in absent if "experimental" in n.split("/")}
    assert set(absent) - gone == set()


def shown(default: Any) -> str:
    """A default as the tables show it."""
    if default is None:
        return "–"
    return f"{default:g}" if type(default) in (int, float) else str(default).lower()


def entries(section: str) -> set[tuple[str, str]]:
    """Options of a section's table with their defaults."""
    lines = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`(\w+)` \(([^)]+)\)", "\n".join(lines)))


def test_every_option_stands_in_the_methods_page_with_its_default() -> None:
    page = read("docs/methods.md")
    assert {"greedy"} | {m for methods in SECTIONS.values() for m in methods} >= set(METHODS)
    for heading, methods in SECTIONS.items():
        if not EXPERIMENTAL and "prefix_gradient" in methods:
            continue
        _, _, after = page.partition(f"\n### {heading}\n")
        own = {
            (name, shown(field.default))
            for method in methods
            for name, field in leaves(METHODS[method].config).items()
            if name not in COMMON
        }
        assert entries(re.split(r"\n##", after)[0]) == own, heading
    for name in COMMON:
        assert f"`{name}`" in page


def test_every_method_preset_and_shared_argument_is_known() -> None:
    page = read("docs/methods.md")
    assert all(f"`{name}`" in page for name in METHODS)
    known = {name for method in METHODS for name in option_names(method)} | COMMON_NAMES
    for file in ("docs/running.md", "docs/models.md", "docs/cluster.md"):
        rows = [line.split(" | ")[0] for line in read(file).splitlines() if line.startswith("| `")]
        names = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
        names = {n for n in names if n == n.lower() and not n.startswith("nabla_")}  # tasks
        assert names and names <= known, names - known


def headers() -> set[str]:
    """Column headers in the code of the reports, as far as they are written there as texts."""
    found: set[str] = set()
    for file in (ROOT / "nabla_eval/reporting").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Column", "text"):
                parts = (part for name in node.args[:1] for part in ast.walk(name))
                values = {part.value for part in parts if isinstance(part, ast.Constant)}
                found |= {value for value in values if isinstance(value, str)}
    return {header for header in found if header.strip(" _")}


def test_the_page_on_runs_describes_every_column_of_the_reports() -> None:
    pages = read("docs/reading.md") + read("docs/probe.md")
    cells = re.findall(r"^\| (`.*?) \| ", pages, re.MULTILINE)
    described = {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}
    assert headers() - described == set() and len(headers()) > 50


def commands() -> list[str]:
    """Command lines of the pages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
            block = re.sub(r"^\$ .*\n(?=Error|…)", "", block, flags=re.MULTILINE)  # these fail
            lines = [line[2:].split("  #")[0] for line in block.splitlines() if line[:2] == "$ "]
            found += [line for line in lines if re.match(r"nabla-eval|.*\blm_eval --model", line)]
        found += re.findall(
            r"`(lm_eval --model nabla --[^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        )
    return sorted(set(found))


def has_models(command: Evaluation) -> None:
    """The embedded pair plays Countdown: on other tasks a command has to name models.

    (But on the task that a page writes for it.)
    """
    countdown = all(t.startswith(("nabla_countdown", "my_problems")) for t in command.tasks)
    named = {"pair", "pretrained"} & command.model_args.keys()
    assert countdown or named, command.tasks


@pytest.mark.parametrize("line", commands())
def test_commands_of_the_pages_parse(line: str) -> None:
    """Names of commands, of their options, of lm-eval's options and of model arguments."""
    words = shlex.split(line.replace("my_package.lion", "sgd"))  # a module of the reader's
    if words[0] != "nabla-eval":
        line = re.sub(r",trace_dir=\w+| --output_path \w+", "", line)  # `compose` fills these in
        assert "--tasks" in words and ("--tasks nabla" not in line or "--include_path" in words)
        has_models(compose(shlex.split(line.partition("--model nabla ")[2])))
        return
    command: click.Command = main
    context = click.Context(main)
    words.pop(0)
    while isinstance(command, click.Group):
        name = words.pop(0)
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
        context = click.Context(found, parent=context, **found.context_settings)
    given, rest, _ = command.make_parser(context).parse_args(words)
    if command.name == "run":
        settings = dict(pair.split("=", 1) for pair in given.get("settings", []))
        has_models(compose(rest, settings=settings, tasks=given.get("tasks", ())))


def test_each_version_of_the_changelog_has_its_sections_once_and_in_order() -> None:
    order = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
    _, *versions = re.split(r"^## ", read("CHANGELOG.md"), flags=re.MULTILINE)
    for version in versions:
        sections = re.findall(r"^### (.*)$", version, re.MULTILINE)
        assert sections == [name for name in order if name in sections]
        starts = re.findall(r"^- (.{38})", version, re.MULTILINE)
        assert len(starts) == len(set(starts))
