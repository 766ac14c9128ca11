"""The page of the paper's printed figures, with what can be checked of them (run.sh)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consistency import ALPHA, as_many_by_luck, chance_fit, grim, noise, standard_errors
from printed import read_printed
from table_one import row_tables

from nabla_eval.analysis.candidates import challengers_baseline, first_accepted_baseline
from nabla_eval.analysis.significance import holm
from nabla_eval.reporting.tables import Column, Report, Table, report_markdown, text
from nabla_eval.reporting.text import MISSING, number, p_value, percent


@dataclass(frozen=True)
class CellRow:
    """One printed accuracy: could it have come from n problems x k runs, and how exact is it?"""

    policy: str
    benchmark: str
    method: str
    printed: str
    source: str
    problems: int
    runs: int
    grim: str
    possible: bool  # as correctly rounded share of n x k answers
    chance: float  # that a percentage printed so, taken at random, would be possible
    otherwise: str  # what other sizes of the set would allow
    se_low: float  # points; runs independent
    se_high: float  # points; runs of one problem all alike


@dataclass(frozen=True)
class LuckRow:
    """The printed accuracies of one benchmark: how many are possible, and how many by luck."""

    benchmark: str
    size: str  # n x k
    cells: int
    possible: int
    expected: float  # of numbers taken at random
    p: float  # that at least as many of those would be possible


@dataclass(frozen=True)
class GapRow:
    """Ours minus a rival, both as printed."""

    policy: str
    benchmark: str
    rival: str
    points: float
    answers: int  # the same in answers of n x k
    p_unpaired: float
    p_alike: float  # as if the runs of a problem were alike
    p_holm: float  # the same, corrected for all differences of the table
    p_at_best: float
    losses_allowed: int | None
    verdict: str


@dataclass(frozen=True)
class RejectionCheck:
    """Printed rejection rates beside the closed forms."""

    policy: str
    source: str
    baseline: str | None
    ours: str
    baseline_h: float  # per cent
    baseline_challengers: float


@dataclass(frozen=True)
class QuotedRow:
    """A figure that is only listed, or a source."""

    what: str
    value: str
    source: str


def paper_report(printed: Mapping[str, Any], folder: str | Path = ".") -> Report:
    """GRIM and standard errors of every cell, differences against noise, rejection, the rest.

    `folder` is that of the file: studies whose figures stand beside the paper's are named from it.
    """
    cells, gaps = list(_cells(printed)), _gaps(printed)
    luck = list(_luck(cells))
    tables = [
        cell_table(cells),
        luck_table(luck),
        gap_table(gaps, printed.get("ours", "ours")),
        rejection_table(list(_rejections(printed))),
        quoted_table("quoted", "Quoted, not checked", _quoted(printed), "Printed"),
        *row_tables(printed, Path(folder)),
        quoted_table("sources", "Sources", _sources(printed), "Where"),
    ]
    title = f"What can be checked of {printed['paper']}"
    sentences = [*printed.get("notes", ()), *_sentences(cells, luck, gaps)]
    return Report("paper", title, [t for t in tables if t.rows], sentences)


def _cells(printed: Mapping[str, Any]) -> Iterator[CellRow]:
    for block in printed["accuracy"]:
        size = printed["benchmarks"][block["benchmark"]]
        problems, runs = size["problems"], size["runs"]
        for method, value in block["cells"].items():
            found = grim(value, problems, runs)
            low, high = standard_errors(float(value) / 100, problems, runs)
            others = [(n, k, grim(value, n, k)) for n, k in size.get("also", ())]
            yield CellRow(
                policy=block["policy"],
                benchmark=block["benchmark"],
                method=method,
                printed=value,
                source=block["source"],
                problems=problems,
                runs=runs,
                grim=found.verdict,
                possible=found.possible,
                chance=float(chance_fit(value, problems, runs)),
                otherwise="; ".join(f"{n} × {k}: {g.verdict}" for n, k, g in others),
                se_low=100 * low,
                se_high=100 * high,
            )


def _luck(cells: Sequence[CellRow]) -> Iterator[LuckRow]:
    groups: dict[tuple[str, str], list[CellRow]] = {}
    for row in cells:
        groups.setdefault((row.benchmark, f"{row.problems} × {row.runs}"), []).append(row)
    if len(groups) > 1:
        groups["all", ""] = list(cells)
    for (benchmark, size), rows in groups.items():
        possible = sum(row.possible for row in rows)
        chances = [row.chance for row in rows]
        luck = as_many_by_luck(chances, possible)
        yield LuckRow(benchmark, size, len(rows), possible, sum(chances), luck)


def _gaps(printed: Mapping[str, Any]) -> list[GapRow]:
    ours, found = printed.get("ours"), []
    for block in printed["accuracy"]:
        size, cells = printed["benchmarks"][block["benchmark"]], block["cells"]
        for rival in cells if ours in cells else ():
            if rival != ours:
                gap = noise(cells[ours], cells[rival], size["problems"], size["runs"])
                found.append((block, rival, gap))
    adjusted = holm([gap.p_alike for _, _, gap in found])
    return [
        GapRow(
            policy=block["policy"],
            benchmark=block["benchmark"],
            rival=rival,
            points=gap.points,
            answers=gap.answers,
            p_unpaired=gap.p_unpaired,
            p_alike=gap.p_alike,
            p_holm=p,
            p_at_best=gap.p_at_best,
            losses_allowed=gap.losses_allowed,
            verdict=gap.verdict_at(p),
        )
        for (block, rival, gap), p in zip(found, adjusted, strict=True)
    ]


def _rejections(printed: Mapping[str, Any]) -> Iterator[RejectionCheck]:
    section = printed.get("rejection") or {}
    for row in section.get("rows", ()):
        n = section["n"]
        yield RejectionCheck(
            policy=row["policy"],
            source=row["source"],
            baseline=row.get("baseline"),
            ours=row["ours"],
            baseline_h=100 * float(first_accepted_baseline(n)),
            baseline_challengers=100 * float(challengers_baseline(n)),
        )


def _quoted(printed: Mapping[str, Any]) -> list[QuotedRow]:
    rows = printed.get("quoted") or ()
    return [QuotedRow(row["what"], row["printed"], row["source"]) for row in rows]


def _sources(printed: Mapping[str, Any]) -> list[QuotedRow]:
    return [QuotedRow(s["what"], s["where"], name) for name, s in printed["sources"].items()]


def _sentences(
    cells: Sequence[CellRow], luck: Sequence[LuckRow], gaps: Sequence[GapRow]
) -> list[str]:
    possible = sum(row.possible for row in cells)
    no_better = [row.benchmark for row in luck if row.p >= ALPHA]
    found = [
        f"GRIM: {possible} of {len(cells)} printed accuracies are a correctly rounded share of the "
        "stated number of answers; of the others, the table says what would allow them. Of numbers "
        f"taken at random {sum(row.chance for row in cells):.0f} would be."
        + f" They fit {', '.join(no_better)} as often as what is printed."
        * bool(no_better),
    ]
    for word in ("exceeds noise", "open", "noise"):
        own = [row for row in gaps if row.verdict.split(":")[0].split(",")[0] == word]
        names = ", ".join(f"{row.rival} ({row.policy}, {row.benchmark})" for row in own)
        if own:
            found.append(f"{word.capitalize()}: {len(own)} of {len(gaps)} differences: {names}.")
    return found


def cell_table(rows: Sequence[CellRow]) -> Table:
    """GRIM and standard errors."""
    columns = [
        text("Policy", lambda row: row.policy),
        text("Set", lambda row: row.benchmark),
        text("Method", lambda row: row.method),
        Column("Printed", lambda row: row.printed, str),
        Column("n × k", lambda row: f"{row.problems} × {row.runs}", str),
        text("GRIM", lambda row: row.grim),
        Column("By luck", lambda row: percent(row.chance), str),
        text("Other sizes", lambda row: row.otherwise or MISSING),
        Column("se", _se, str),
        text("Source", lambda row: row.source),
    ]
    notes = [
        "GRIM: the number of right answers that prints so, of n problems × k runs. Cut off: "
        "further digits dropped instead of rounded. Mean of rounded runs: each run rounded to the "
        "printed decimals before the mean was taken. What is not possible may be a slip of the "
        "source, another size of the set, or another kind of average. By luck: the share of all "
        "percentages with as many decimals that are possible; a fit says little where it is large.",
        "se, in points: from k independent runs over equally hard problems, to k runs that are "
        "alike; what the paper's answers had lies between.",
    ]
    return Table("accuracy", "Printed accuracies", columns, rows, notes)


def luck_table(rows: Sequence[LuckRow]) -> Table:
    """How many fits luck alone would give."""
    columns = [
        text("Set", lambda row: row.benchmark),
        Column("n × k", lambda row: row.size or MISSING, str),
        Column("Cells", lambda row: str(row.cells), str),
        Column("Possible", lambda row: str(row.possible), str),
        Column("Expected by luck", lambda row: number(row.expected), str),
        Column("p", lambda row: p_value(row.p), str),
    ]
    notes = [
        "Expected by luck: of percentages with the same decimals, taken at random from 0 to 100. "
        "p: the chance that at least as many of them would be possible."
    ]
    return Table("luck", "Would numbers taken at random fit as well?", columns, rows, notes)


def _se(row: CellRow) -> str:
    low, high = number(row.se_low), number(row.se_high)
    return low if low == high else f"{low}–{high}"


def gap_table(rows: Sequence[GapRow], ours: str) -> Table:
    """Differences against noise."""
    columns = [
        text("Policy", lambda row: row.policy),
        text("Set", lambda row: row.benchmark),
        text(f"{ours} minus", lambda row: row.rival),
        Column("Points", lambda row: f"{row.points:+.1f}", str),
        Column("Answers", lambda row: f"{row.answers:+d}", str),
        Column("p, unpaired", lambda row: p_value(row.p_unpaired), str),
        Column("p, alike", lambda row: p_value(row.p_holm), str),
        Column("p, at best", lambda row: p_value(row.p_at_best), str),
        text("Verdict", lambda row: row.verdict),
    ]
    notes = [
        "Answers: the difference in whole answers of n × k. p, unpaired: as if all of them were "
        "independent, which flatters the difference where runs repeat. p, alike: as if the runs of "
        "a problem were all alike (greedy's are), corrected by Holm for all differences of this "
        "table; below 0.05 the difference exceeds noise. p, at best: exact, if every answer on "
        "which the two differ went to the higher one. Open: the table says what it depends on; "
        "lost are the answers on which the lower one alone is right, which only the paired answers "
        "can tell."
    ]
    return Table("differences", "Which printed differences exceed noise", columns, rows, notes)


def rejection_table(rows: Sequence[RejectionCheck]) -> Table:
    """Rejection rates beside the closed forms."""
    columns = [
        text("Policy", lambda row: row.policy),
        Column("Baseline, printed", lambda row: row.baseline or MISSING, str),
        Column("∇-Reasoner, printed", lambda row: row.ours, str),
        Column("1 - H_N/N", lambda row: number(row.baseline_h, 2), str),
        Column("Challengers", lambda row: number(row.baseline_challengers, 2), str),
        text("Source", lambda row: row.source),
    ]
    notes = [
        "Per cent. 1 - H_N/N counts the first of N i.i.d. draws as accepted. A method whose first "
        "draft is not among the candidates has to be compared with 1 - (H_N - 1)/(N - 1) "
        "(Challengers), and with its zeroth-order twin. The number of candidates is not quoted, so "
        "neither intervals nor GRIM are possible."
    ]
    return Table("rejection", "Printed rejection rates", columns, rows, notes)


def quoted_table(name: str, title: str, rows: Sequence[QuotedRow], value: str) -> Table:
    """A plain list."""
    columns = [
        text("What", lambda row: row.what),
        text(value, lambda row: row.value),
    ]
    if any(row.source for row in rows):
        columns.append(text("Source", lambda row: row.source))
    return Table(name, title, columns, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="printed.yaml")
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    page = paper_report(read_printed(asked.file), asked.file.parent)
    asked.output.write_text(report_markdown(page), encoding="utf-8")
    print(f"Wrote {asked.output}.")
