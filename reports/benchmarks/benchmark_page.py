"""Writes `reports/benchmarks.md` from the figures that pytest-benchmark kept.

    python reports/benchmarks/benchmark_page.py results/benchmarks.json reports/benchmarks

adds the file's figures to `reports/benchmarks.json` (those of the other device stay) and renders
`reports/benchmarks.md` from it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from simulated import PLACES

Figure = dict[str, Any]
PACKAGES = ("torch", "transformers", "numpy")
GPU_SHAPES = "random weights in the shapes of Qwen2.5-7B and Qwen3-4B (reward), bf16"


def collect(file: Path) -> tuple[str, dict[str, Any]]:
    """Which section a run of pytest-benchmark fills, and what stands in it."""
    run = json.loads(file.read_text(encoding="utf-8"))
    figures = [b["extra_info"] for b in run["benchmarks"] if "figure" in b["extra_info"]]
    cpu = run["machine_info"]["cpu"]
    about = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "python": run["machine_info"]["python_version"],
        "processor": f"{cpu.get('brand_raw', 'unknown processor')}, {os.cpu_count()} cores",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        **{package: version(package) for package in PACKAGES},
    }
    section = "gpu" if figures and all(f["figure"] == "gpu" for f in figures) else "cpu"
    return section, {"about": about, "figures": figures}


def spread(ratios: Sequence[float], digits: int = 2) -> str:
    """Median, and the smallest and largest round."""
    low, high = min(ratios), max(ratios)
    return f"{median(ratios):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def verdict(met: bool) -> str:
    return "met" if met else "**not met**"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, with an empty line after it."""
    if not rows:
        return ["Not measured in this run.", ""]
    lines = [head, ["---"] * len(head), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def described(about: dict[str, str], command: str) -> str:
    versions = ", ".join(f"{name} {about[name]}" for name in PACKAGES)
    return (
        f"`{command}` on {about['date']}; {about['processor']}, {about['threads']} thread(s), "
        f"Python {about['python']}, {versions}."
    )


def part(figures: Sequence[Figure], letter: str) -> list[Figure]:
    return [figure for figure in figures if figure["figure"] == letter]


def engine(figures: Sequence[Figure]) -> list[str]:
    """Figures (a) to (d)."""
    return [
        *by_specification(part(figures, "a")),
        *by_best_of_n(part(figures, "b")),
        *by_generate(part(figures, "c")),
        *by_bare_pass(part(figures, "d")),
    ]


def by_specification(figures: Sequence[Figure]) -> list[str]:
    """Figure (a): the fast engine's seconds and those of `engine/naive.py`."""
    rows = [
        [
            f"{f['problems']} problems (the specification: {f['naive_problems']}, scaled)",
            f"{spread(f['ratios'], 1)} times faster",
            verdict(median(f["ratios"]) >= 20),
        ]
        for f in figures
    ]
    return [
        "## (a) The fast engine by the specification",
        "",
        *table(["Embedded pair, float64, N = 8", "Gain", "Goal: at least 20"], rows),
    ]


def by_best_of_n(figures: Sequence[Figure]) -> list[str]:
    """Figure (b): ∇-Reasoner's seconds by those of best-of-N at the same N."""
    rows = [
        [
            f"{f['width']} {'problems' if f['equal'] == 'problems' else 'responses'}",
            "yes" if f["stop"] else "no",
            str(f["lookahead"]),
            spread(f["ratios"]),
            f"{f['calls']:.1f} and {f['calls_best_of_n']:.1f}",
            f"{f['flops']:.2f}",
            verdict(median(f["ratios"]) <= 1.0),
        ]
        for f in figures
    ]
    head = [
        "In flight",
        "Early stop",
        "Lookahead",
        "Seconds by best-of-8's",
        "Calls of each",
        "FLOPs",
        "Goal: at most 1.00",
    ]
    return [
        "## (b) ∇-Reasoner by best-of-8, seconds",
        "",
        "The same 128 or 512 problems and N = 8. *In flight* says what is equal: problems, so that",
        "best-of-8 has up to 256 responses in its batch and ∇-Reasoner 32, or responses. Below 1,",
        "∇-Reasoner is faster. Calls are the paper's: a gradient pass counts as 4, a scoring as 1,",
        "however long the response. FLOPs, by the ledger's rule, say what that hides: a pass costs",
        "a forward and a backward of both models over all tokens.",
        "",
        *table(head, rows),
    ]


def by_generate(figures: Sequence[Figure]) -> list[str]:
    """Figure (c): tokens per second by those of transformers' `generate`."""
    batches = {"unequal": "random weights, 16 to 256 tokens a row", "embedded": "embedded policy"}
    rows = [
        [
            f"{batches[f['batch']]}, {f['rows']} rows, {f['tokens']} tokens",
            f"{spread(f['ratios'])}",
            f"{f['per_second']:.0f}",
            verdict(median(f["ratios"]) >= 1.0),
        ]
        for f in figures
    ]
    return [
        "## (c) The decode loop by transformers' `generate`, tokens per second",
        "",
        *table(["Batch", "Ratio", "Our tokens/s", "Goal: at least 1.00"], rows),
    ]


def by_bare_pass(figures: Sequence[Figure]) -> list[str]:
    """Figure (d): seconds of DTO by those of one forward and backward pass of both models."""
    pairs = {
        "small": "random weights",
        "embedded": "embedded pair",
        "real": "random weights in the shape of Qwen2.5-0.5B, both models",
    }
    rows = [
        [
            f"{pairs[f['pair']]}, {f['rows']} responses of {f['tokens']:.0f} tokens, "
            f"V = {f['vocabulary']}{', with the norms of a gate' if f['gated'] else ''}",
            spread(f["ratios"]),
            verdict(median(f["ratios"]) <= 1.25),
        ]
        for f in figures
    ]
    return [
        "## (d) DTO by one bare forward and backward pass of both models, seconds",
        "",
        "Gradient, 20 steps and the draw at one position a response, where no token flips. A gate",
        "on gradient norms (the paper's preset has one, the default does not) forms the gradient's",
        "V-vector at every uncertain position: here at all of them. That is dear beside two slim",
        "layers, and little beside a language model's own.",
        "",
        *table(["Batch", "Ratio", "Goal: at most 1.25"], rows),
    ]


def scaling(figures: Sequence[Figure]) -> list[str]:
    """Figure (e), and (f) start-up."""
    lines = ["## (e) How seconds grow", ""]
    lines += [
        "Slope of log seconds by log size (1: linear), the smaller of two rounds at each size;",
        "random weights. `generate` is transformers' own on the same lengths: the yardstick for L.",
        "",
    ]
    rows = [
        [
            f["what"],
            f["method"],
            f"{f['slope']:.2f}",
            ", ".join(
                f"{size}: {spent:.2f}" for size, spent in zip(f["sizes"], f["seconds"], strict=True)
            ),
        ]
        for f in part(figures, "e")
    ]
    lines += table(["Size", "Method", "Slope", "Seconds"], rows)
    lines += ["## (f) Start-up", ""]
    if not part(figures, "f"):
        lines.append("Not measured in this run.")
    for f in part(figures, "f"):
        goal = ""
        if "interpreter" in f:
            goal = (
                f"; the empty interpreter takes {f['interpreter'] * 1e3:.0f} ms. "
                f"Goal: below 300 ms, {verdict(f['seconds'] < 0.3)}"
            )
        lines.append(
            f"- `{f['what']}`: {f['seconds'] * 1e3:.2f} ms (median of {f['rounds']}){goal}."
        )
    return [*lines, ""]


def top_p(figures: Sequence[Figure]) -> list[str]:
    """Figure (g): seconds of decoding with top-p by those without."""
    rows = [
        [
            f"{f['rows']} rows, {f['layers']} layers, V = {f['vocabulary']}",
            spread(f["ratios"]),
            verdict(median(f["ratios"]) <= 1.05),
        ]
        for f in figures
    ]
    return [
        "## (g) Decoding with top-p by decoding without, seconds",
        "",
        "The shape of Qwen2.5-0.5B with random weights, and a head scaled so that few tokens hold",
        "0.95 of the mass, as a language model's do.",
        "",
        *table(["Batch", "Ratio", "Goal: at most 1.05"], rows),
    ]


def memory(figures: Sequence[Figure]) -> list[str]:
    """Figure (h): peak memory of one response's gradient by its length and the vocabulary."""
    names = {"refine": "refinement of one position", "norms": "norms of a gate at all positions"}
    rows = []
    for f in figures:
        *_, before, last = f["lengths"]
        for words, peaks in f["peaks"].items():
            rows.append(
                [
                    names[f["what"]],
                    words,
                    *(f"{peak / 1e6:.0f} ({4 * length * int(words) / 1e6:.0f})"
                      for length, peak in zip(f["lengths"], peaks, strict=True)),
                    f"{(peaks[-1] - peaks[-2]) / (4 * (last - before) * int(words)):.2f}",
                ]
            )  # fmt: skip
    lengths = figures[0]["lengths"] if figures else ()
    return [
        "## (h) Memory of one response's gradient, MB at its peak",
        "",
        "In fresh processes, beyond the models and the response; in brackets a float32 number for",
        "each of L × V. Slim models (one layer, D = 32), so that rows over V dominate. They are",
        "formed for 2^25 numbers (134 MB) at once: so far a peak grows with L × V, and no further.",
        "",
        *table(
            ["What", "V", *(f"L = {length}" for length in lengths), "Growth at the end by L × V"],
            rows,
        ),
    ]


def served(figures: Sequence[Figure]) -> list[str]:
    """Figure (i): simulated seconds with rollouts on a server by those with rollouts here."""
    rows = [
        [
            f"{f['method']}, {f['width']} problems in flight",
            *(f"{f['seconds'][place]:.0f}" for place in PLACES),
            f"{f['seconds']['overlapped'] / f['seconds']['here']:.2f}",
            f"{f['seconds']['overlapped'] / f['seconds']['in turns']:.2f}",
        ]
        for f in figures
    ]
    return [
        "## (i) Rollouts on a vLLM server, simulated seconds",
        "",
        "Not measured but simulated (reports/benchmarks/simulated.py): the work is the engine's on",
        "the embedded pair, each token standing for 40, and a clock says what models of 7.6 and 4",
        "billion parameters would take on cards of 3.35 TB/s and 495 TFLOP/s. A server is a second",
        "card. In turns: it is waited for; overlapped: it writes while models run here.",
        "",
        *table(
            ["N = 8", "Here", "In turns", "Overlapped", "Overlapped by here", "By in turns"], rows
        ),
    ]


def gpu(section: dict[str, Any] | None) -> list[str]:
    lines = [f"## On a GPU: {GPU_SHAPES}", ""]
    if section is None:
        return [
            *lines,
            "Not measured: no GPU was at hand. `make bench-gpu` fills this section.",
            "",
        ]
    figures = part(section["figures"], "gpu")
    lines += [described(section["about"], "make bench-gpu"), f"Card: {figures[0]['card']}.", ""]
    rows = [[f["what"], spread(f["ratios"]), f["detail"]] for f in figures]
    return lines + table(["What", "Ratio", "Of what"], rows)


def render(sections: dict[str, Any]) -> str:
    """The page, in Markdown."""
    lines = ["# Benchmarks", ""]
    lines += [
        "Every figure is a ratio (or a slope) measured within one run: reference and subject take",
        "turns. Median of the rounds, with the smallest and the largest.",
        "",
    ]
    if cpu := sections.get("cpu"):
        lines += [described(cpu["about"], "make bench"), ""]
        if {figure["figure"] for figure in cpu["figures"]} < set("abcdefghi"):
            lines += ["Of it only the tests whose figures stand below were run.", ""]
        lines += [*engine(cpu["figures"]), *scaling(cpu["figures"])]
        lines += [*top_p(part(cpu["figures"], "g")), *memory(part(cpu["figures"], "h"))]
        lines += served(part(cpu["figures"], "i"))
    lines += gpu(sections.get("gpu"))
    return "\n".join(lines).rstrip() + "\n"


def main(source: Path, target: Path) -> None:
    kept = target.with_suffix(".json")
    sections = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    name, section = collect(source)
    if not section["figures"]:
        raise SystemExit(f"{source} holds no figures: were the benchmarks run with the clock on?")
    sections[name] = section
    kept.write_text(json.dumps(sections, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = target.with_suffix(".md")
    page.write_text(render(sections), encoding="utf-8")
    print(f"{len(section['figures'])} figures: {page}, {kept}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
