"""The report of `nabla-eval demo`: accuracy and cost, rejection, and the verdicts on both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nabla_eval.analysis.cost import acceleration, costs
from nabla_eval.analysis.runs import Run
from nabla_eval.reporting.accuracy import accuracy_report, accuracy_row
from nabla_eval.reporting.rejection import rejection_report
from nabla_eval.reporting.rows import ACCURACY, CALLS, RIGHT_PER_100, run_table
from nabla_eval.reporting.tables import Column, Report, Table
from nabla_eval.reporting.text import number, percent

REMARKS = (
    "The twin is ∇-Reasoner without its gradient (steps=0): what the gradient adds is nabla minus "
    "twin. Stop: end at the first response whose reward says that right is likelier than wrong.",
    "One seed and one small pair: a result about these, not about ∇-Reasoner at large.",
)


def demo_report(runs: Sequence[Run]) -> Report:
    """Report accuracy, cost and rejection, each run of ∇-Reasoner against its controls."""
    rejection = rejection_report(runs)
    tables = [accuracy_and_cost_table(runs), replace(rejection.table("runs"), name="rejection")]
    verdicts = [*accuracy_report(runs).sentences, *rejection.sentences]
    sentences = [*verdicts, *certified_remark(runs), *REMARKS]
    return Report("demo", "Countdown on the embedded pair", tables, sentences)


def certified_remark(runs: Sequence[Run]) -> list[str]:
    """Say why a gradient method takes so few gradients; nothing where no draw is certified."""
    for run in runs:
        found = acceleration(run).certified
        if found.value > 0:
            passes = number(costs(run)["gradient_passes"].value)
            return [
                f"{run.name} takes {passes} gradient passes per problem because "
                f"{percent(found.value)} of its draws are certified: its steps are bounded, so no "
                "gradient could change the token drawn, and none is computed. That is also why its "
                "answers are nearly its twin's. --lr 0.3 and --preset paper show other settings "
                "beside these."
            ]
    return []


def accuracy_and_cost_table(runs: Sequence[Run]) -> Table:
    """Tabulate accuracy ± standard error, and what it cost."""
    columns = [
        ACCURACY,
        CALLS,
        Column("Tokens", "generated_tokens"),
        Column("Grads", "gradient_passes"),
        RIGHT_PER_100,
        Column("Seconds", "seconds"),
    ]
    return run_table(
        "accuracy", "Accuracy and cost", [accuracy_row(run) for run in runs], columns,
        "Model calls, generated tokens and gradient passes are means per problem (a token or a "
        "scoring is one call, a gradient pass four). Right/100: correct answers per 100 calls. "
        "Seconds: generation, all problems.",
    )  # fmt: skip
