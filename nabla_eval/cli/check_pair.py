"""`nabla-eval check-pair`: a verdict on a policy and a reward model before a GPU is booked."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from nabla_eval.terminal import say

if TYPE_CHECKING:
    from nabla_eval.models.check import PairReport

MARKS = {"ok": ("ok", "green"), "warning": ("look", "yellow"), "failed": ("no", "bold red")}
SKIPPED = ("skipped", "dim")


@click.command("check-pair")
@click.argument("policy")
@click.argument("reward")
@click.option("--length", type=click.IntRange(min=1), default=2048, show_default=True,
              help="Tokens of prompt and response.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True,
              help="Sequences whose gradients are taken at once.")  # fmt: skip
@click.option(
    "--dtype",
    default=None,
    help="For the memory estimate and --load.  [default: each checkpoint's own]",
)
@click.option("--vocab", type=click.Choice(["align", "same", "force"]), default="align",
              show_default=True, help="How alike the vocabularies must be.")  # fmt: skip
@click.option(
    "--step-delimiter",
    default=None,
    help="Ends a step of a process reward: newline, blank_line, "
    "semicolon, regex:PATTERN, tokens:COUNT, or a text.",
)
@click.option("--reward-chat-template", default=None, help="Jinja source, or 'plain' for none.")
@click.option("--thinking", is_flag=True, help="Responses carry their own <think> block.")
@click.option("--load", is_flag=True, help="Also load both models and test their parts.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with a checkpoint.")
@click.option("--allow-pickle", is_flag=True, help="Take weights that are not safetensors.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def check_pair(
    ctx: click.Context,
    policy: str,
    reward: str,
    length: int,
    batch: int,
    dtype: str | None,
    vocab: Any,
    step_delimiter: str | None,
    reward_chat_template: str | None,
    thinking: bool,
    load: bool,
    trust_remote_code: bool,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Do POLICY and REWARD (hub ids or folders) fit together?

    Looks at architectures, vocabularies, chat templates, contexts and memory; weights are neither
    needed nor read without --load. Exit code 1 for a pair that cannot work.

    Example: nabla-eval check-pair Qwen/Qwen2.5-7B-Instruct Skywork/Skywork-Reward-V2-Qwen3-4B
    """
    from nabla_eval.models import check
    from nabla_eval.models.chat import Template
    from nabla_eval.models.checkpoint import Trust
    from nabla_eval.reporting.tables import json_text

    asked = check.PairUse(
        length=length,
        batch=batch,
        dtype=dtype,
        vocab=vocab,
        step_delimiter=step_delimiter,
        template=Template(chat_template=reward_chat_template, thinking=thinking),
        trust=Trust(trust_remote_code=trust_remote_code, allow_pickle=allow_pickle),
        load=load,
    )
    report = check.check_pair(policy, reward, asked)
    if as_json:
        say(json_text(as_dict(report)), end="")
    else:
        show(report)
    ctx.exit(0 if report.ok else 1)


def as_dict(report: PairReport) -> dict[str, Any]:
    """The report as plain data; memory in bytes, with its arithmetic."""
    overlap = report.overlap
    return {
        "policy": report.policy,
        "reward": report.reward,
        "ok": report.ok,
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
        "vocabulary": None
        if overlap is None
        else {
            **dataclasses.asdict(overlap),
            "shared": overlap.shared,
            "share": overlap.share,
            "kind": overlap.kind,
        },
        "memory": {
            "models": {name: [dataclasses.asdict(t) for t in m.terms] for name, m in report.memory},
            "one_device_bytes": report.bytes,
        },
    }


def show(report: PairReport) -> None:
    """Print the report for reading."""
    from rich.table import Table
    from rich.text import Text

    from nabla_eval.cli.screen import Screen

    console = Screen()
    console.print(f"policy  {report.policy}\nreward  {report.reward}\n")
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in report.findings:
        mark = Text(*MARKS.get(finding.verdict, SKIPPED))
        table.add_row(mark, finding.name, finding.text)
    console.print(table)
    if report.memory:
        console.print(memory_table(report))
    verdict = ("can", "green") if report.ok else ("cannot", "bold red")
    console.print(f"\nThis pair {verdict[0]} work.", style=verdict[1])


def memory_table(report: PairReport) -> Any:
    """Memory by model and term, with its arithmetic."""
    from rich.table import Table

    gib = 2**30
    table = Table(title="Memory for gradients (upper estimate)", title_justify="left", box=None)
    for name, justify in (("model", "left"), ("for", "left"), ("GiB", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    table.add_column("arithmetic")
    for name, part in report.memory:
        for term in part.terms:
            table.add_row(name, term.name, f"{term.bytes / gib:.2f}", term.arithmetic)
    one = "all weights + the larger pass"
    table.add_row("both", "on one device", f"{report.bytes / gib:.2f}", one, style="bold")
    return table
