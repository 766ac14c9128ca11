"""`nabla-eval check-pair`: a verdict on a policy and a reward model before a GPU is booked."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from nabla_eval.cli.options import COUNT, as_json, option, trust
from nabla_eval.terminal import say

if TYPE_CHECKING:
    from nabla_eval.models.check import PairReport

MARKS = {
    "ok": ("ok", "green"),
    "warning": ("look", "yellow"),
    "failed": ("no", "bold red"),
    "skipped": ("skipped", "dim"),
}


@click.command("check-pair")
@click.argument("policy")
@click.argument("reward")
@option("--length", "Tokens of prompt and response.", type=COUNT, default=2048)
@option("--batch", "Sequences whose gradients are taken at once.", type=COUNT, default=1)
@option("--dtype", "For the memory estimate and --load.  [default: each checkpoint's own]")
@option(
    "--vocab",
    "How alike the vocabularies must be.",
    type=click.Choice(["align", "same", "force"]),
    default="align",
)
@option(
    "--step-delimiter",
    "Ends a step of a process reward: newline, blank_line, semicolon, regex:PATTERN, "
    "tokens:COUNT, or a text.",
)
@option("--reward-chat-template", "Jinja source, or 'plain' for none.")
@option("--thinking", "Responses carry their own <think> block.", is_flag=True)
@option("--load", "Also load both models and test their parts.", is_flag=True)
@trust()
@as_json()
@click.pass_context
def check_pair(
    ctx: click.Context,
    policy: str,
    reward: str,
    reward_chat_template: str | None,
    thinking: bool,
    trust_remote_code: bool,
    allow_pickle: bool,
    as_json: bool,
    **use: Any,
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

    template = Template(chat_template=reward_chat_template, thinking=thinking)
    trust = Trust(trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    report = check.check_pair(policy, reward, check.PairUse(template=template, trust=trust, **use))
    if as_json:
        say(json_text(as_dict(report)), end="")
    else:
        show(report)
    ctx.exit(0 if report.ok else 1)


def as_dict(report: PairReport) -> dict[str, Any]:
    """Return the report as plain data; memory in bytes, with its arithmetic."""
    overlap = report.overlap
    derived = ("shared", "share", "kind")
    return {
        "policy": report.policy,
        "reward": report.reward,
        "ok": report.ok,
        "findings": [asdict(finding) for finding in report.findings],
        "vocabulary": overlap
        and {**asdict(overlap), **{name: getattr(overlap, name) for name in derived}},
        "memory": {
            "models": {name: [asdict(term) for term in m.terms] for name, m in report.memory},
            "one_device_bytes": report.bytes,
        },
    }


def show(report: PairReport) -> None:
    """Print the report for reading."""
    from rich.text import Text

    from nabla_eval.cli.screen import Screen, table

    console = Screen()
    console.print(f"policy  {report.policy}\nreward  {report.reward}\n")
    found = [(Text(*MARKS[f.verdict]), f.name, f.text) for f in report.findings]
    console.print(table(("", "", ""), found, box=None, pad_edge=False, show_header=False))
    if report.memory:
        terms = [
            (name, term.name, f"{term.bytes / 2**30:.2f}", term.arithmetic)
            for name, part in report.memory
            for term in part.terms
        ]
        columns = ("model", "for", "GiB", "arithmetic")
        title = "Memory for gradients (upper estimate)"
        made = table(columns, terms, right=["GiB"], title=title, box=None)
        whole = ("both", "on one device", f"{report.bytes / 2**30:.2f}")
        made.add_row(*whole, "all weights + the larger pass", style="bold")
        console.print(made)
    word, style = ("can", "green") if report.ok else ("cannot", "bold red")
    console.print(f"\nThis pair {word} work.", style=style)
