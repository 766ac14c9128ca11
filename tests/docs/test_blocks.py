"""What the pages and the README show is run: console lines, Python, and the files that they name.

All of it in this process and in one folder, which holds a demo of two problems. Lines that cannot
be run here are listed in `NOT_HERE` with the reason; `tests/architecture/test_docs.py` holds these
to the parsers of their commands at least.
"""

from __future__ import annotations

import ast
import functools
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from transformers import Qwen2Config, Qwen2ForSequenceClassification

from nabla_eval import embedded
from nabla_eval.cli import demo
from nabla_eval.cli.main import main
from nabla_eval.harness.task_files import tasks_path
from nabla_eval.methods.registry import METHODS
from nabla_eval.runs import evaluate
from nabla_eval.testing import chat_tokenizer

ROOT = Path(__file__).resolve().parents[2]
FIRST = ROOT / "docs/first_run.md"  # what it leaves is there for the others
PAGES = [FIRST, ROOT / "README.md", *sorted({*ROOT.glob("docs/*.md")} - {FIRST})]
LIMIT = "2"  # problems, in place of the limits of the pages
# The beginning of a line, and why it is not run here.
NOT_HERE = {
    r"(make|pip|pipx|uv|git|export|\.) ": "it changes the environment",
    r"(torchrun|accelerate|sbatch|examples/|CUDA_VISIBLE_DEVICES)": "it starts processes on GPUs",
    r".*(Qwen|Skywork|models/|my-pair/|mine)": "it loads models that a hub or training provides",
    r"nabla-eval (data|.*nabla_(aime|amc|math|gsm))": "it reads problem sets of a hub",
    r"nabla-eval report all results/(aime24|table1)": "it reads runs of such a set",
    r"nabla-eval sweep table1.yaml --output results/table1$": "it runs such a set",
    r"(nabla-eval train|python reports/|.*=results/sft)": "it trains; tests/training does",
    r".*--wandb_args": "W&B need not be here; tests/cli/test_loggers.py has a stand-in",
    r"nabla-eval probe": "it takes half a minute; tests/cli/test_probe.py does it",
    r"nabla-eval theory($| --report)": "it takes a minute; tests/theory does it",
}
EXTRA = {"sweep": ["--dry-run"], "demo": ["--limit", LIMIT], "run": ["--limit", LIMIT]}
FILE = re.compile(r'(?:# |""")((?:[\w-]+/)*[\w-]+\.(?:py|yaml))\b')  # a block that is a file
# Blocks that another test runs: tests/architecture/test_contributing.py.
COPIED = (
    '"""Longest of n',
    '    "longest_of_n":',
)


def blocks(page: Path, *kinds: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```(?:{'|'.join(kinds)})\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def shown(page: Path) -> dict[str, str]:
    """Command lines, without what is said of them behind a #, with the output below each."""
    found: dict[str, str] = {}
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
            line, _, output = part.partition("\n")
            found.setdefault(re.split(r"\s+# ", line)[0].strip(), output.strip())
    return found


def lines(page: Path) -> list[str]:
    return list(shown(page))


def reason(line: str) -> str | None:
    return next((why for start, why in NOT_HERE.items() if re.match(start, line)), None)


def words_of(line: str) -> list[str]:
    """Split a line, with the one substitution that pages use and a small limit."""
    told = line.replace('"$(nabla-eval tasks path)"', shlex.quote(str(tasks_path())))
    assert not re.search(r"\$|[|<>&;]", told), f"only a shell runs {line}"
    limit = "1" if "nabla_words" in line else LIMIT  # whose answers are ten times as long
    return shlex.split(re.sub(r"--limit \d+", f"--limit {limit}", told))


def models(folder: Path) -> None:
    """Make the embedded policy, and a reward model whose tokens are single characters."""
    folder.mkdir()
    (folder / "policy").symlink_to(embedded.paths()[0])
    tokenizer = chat_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    for part in (tokenizer, Qwen2ForSequenceClassification(config)):
        part.save_pretrained(folder / "other-family")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which everything runs, with `results/demo` and the files that pages name."""
    if not all(path.is_dir() for path in embedded.paths()):
        pytest.skip("the embedded weights are absent")
    folder = tmp_path_factory.mktemp("pages")
    for page in PAGES:
        for block in blocks(page, "python", "yaml"):
            if (found := FILE.match(block)) and not block.startswith(COPIED):
                file = folder / found[1]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "")
        patch.setenv("COLUMNS", "100")
        rows = {name: demo.ROWS[name] for name in ("nabla", "twin", "best_of_n")}
        patch.setattr(demo, "ROWS", rows)
        patch.setattr(demo, "WORDS_TOKENS", 24)
        kept = evaluate.Evaluator()  # the embedded pair is loaded once

        def anew(**_: object) -> evaluate.Evaluator:
            kept._managers.clear()  # tasks remember a line's --gen_kwargs
            return kept

        patch.setattr(evaluate, "Evaluator", anew)
        models(folder / "models")
        for line in lines(FIRST)[:1]:
            run(line)
        known = {*METHODS}
        yield folder
    run.cache_clear()
    for name in {*METHODS} - known:  # an example adds a method
        del METHODS[name]


def plain(text: str) -> str:
    """A text as one line: terminals break it elsewhere. A page leaves out what stands before …"""
    return " ".join(text.removeprefix("…").split())


@functools.cache
def run(line: str) -> None:
    """Run a line that has to end well."""
    status, printed = attempt(line)
    assert status == 0, f"{line}\n{printed}"


def attempt(line: str) -> tuple[int, str]:
    """Run a line of `nabla-eval`, `lm_eval` or a script; returns its status and what it printed."""
    program, *words = words_of(line)
    if program == "python":
        runpy.run_path(words[0], run_name="__main__")
        return 0, ""
    assert program in ("nabla-eval", "lm_eval"), f"{line} is not run here: add it to NOT_HERE"
    if "--limit" not in words:
        words += EXTRA.get("run" if program == "lm_eval" else words[0], [])
    if program == "lm_eval":
        return 0, lm_eval(words)
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    return done.exit_code, done.output


def lm_eval(words: list[str]) -> str:
    """lm-eval's own main function, which indexes the tasks of `--include_path` alone."""
    import lm_eval.tasks
    from lm_eval.__main__ import cli_evaluate

    said = StringIO()
    manager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setattr(lm_eval.tasks, "TaskManager", manager)
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.setattr(sys, "argv", ["lm_eval", *words])
        cli_evaluate()
    return said.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_console_lines_run(page: Path, place: Path) -> None:
    for line, output in shown(page).items():
        if output.startswith(("Error", "…")):
            status, printed = attempt(line)
            assert status == 1 and plain(output) in plain(printed), f"{line}\n{printed}"
        elif reason(line) is None:
            run(line)


def test_no_reason_is_idle() -> None:
    every = [line for page in PAGES for line in lines(page)]
    idle = [start for start in NOT_HERE if not any(re.match(start, line) for line in every)]
    assert idle == [] and sum(reason(line) is None for line in every) >= 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_prints_what_it_says(page: Path, place: Path) -> None:
    for block in blocks(page, "python", "py"):
        if not FILE.match(block) and not block.startswith(COPIED):
            execute(block, place)


def execute(block: str, place: Path) -> None:
    """Run a block statement by statement, and hold values to the comments behind them.

    It is a module of its own: dataclasses look their annotations up there.
    """
    module = ModuleType("example_of_the_pages")
    sys.modules[module.__name__] = module
    source = block.splitlines()
    for statement in ast.parse(block).body:
        _, _, said = source[(statement.end_lineno or 1) - 1].partition("  # ")
        code = ast.get_source_segment(block, statement) or ""
        if not isinstance(statement, ast.Expr):
            start = min([statement.lineno, *(d.lineno for d in decorators(statement))])
            code = "\n".join(source[start - 1 : statement.end_lineno])
            exec(compile(code, "docs", "exec"), vars(module))
            continue
        out = StringIO()
        with redirect_stdout(out):
            value = eval(compile(code, "docs", "eval"), vars(module))
        if code.startswith("print("):
            assert out.getvalue().rstrip("\n") == said, code
        elif (expected := literal(said)) is not None:
            assert value == expected, code


def decorators(statement: ast.stmt) -> list[ast.expr]:
    return getattr(statement, "decorator_list", [])


def literal(said: str) -> Any:
    """The value that a comment shows, up to a colon; None where it is prose."""
    try:
        return ast.literal_eval(said.partition(": ")[0])
    except (ValueError, SyntaxError):
        return None
