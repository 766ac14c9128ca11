"""Where does a gradient pay? Runs the beds and writes the page beside this file.

    python reports/regimes/regimes.py [--results results/regimes] [--seeds 5] [--joint 5]
                                      [--only width length recipe countdown words] [--page]

Each trained model and each seed's measurements are files under --results, written whole and kept,
so a stopped run goes on where it was. The figures of all beds that were run are in
`regimes.json.gz`; the page is made from it alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import countdown_bed
import length_bed
import recipe_bed
import torch
import width_bed
import words_bed
from margins import SEEDS
from regimes_page import write_page

HERE = Path(__file__).parent
BEDS: dict[str, Callable[[Path, int, int], Any]] = {
    "width": lambda at, seeds, _: width_bed.run(at / "width", seeds),
    "length": lambda at, seeds, _: length_bed.run(at / "length", at / "width", seeds),
    "recipe": lambda at, seeds, _: recipe_bed.run(at / "recipe", at / "width", seeds),
    "countdown": lambda at, seeds, joint: countdown_bed.run(at / "countdown", seeds, joint),
    "words": lambda at, seeds, _: words_bed.run(at / "words"),
}


def stored() -> dict[str, Any]:
    """Return the figures of the beds that were run before."""
    path = HERE / "regimes.json.gz"
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes())) if path.exists() else {}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results/regimes"))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="reward models of each kind")
    parser.add_argument(
        "--joint", type=int, default=SEEDS, help="how many of them are aligned jointly on Countdown"
    )
    parser.add_argument("--only", nargs="*", choices=list(BEDS), default=list(BEDS))
    parser.add_argument("--page", action="store_true", help="make the page again, run nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    figures = stored()
    for name in [] if asked.page else asked.only:
        figures[name] = BEDS[name](asked.results, asked.seeds, asked.joint)
        packages = ("torch", "numpy", "scipy")
        figures["versions"] = {
            "python": platform.python_version(), **{p: version(p) for p in packages}
        }  # fmt: skip
        text = json.dumps(figures, separators=(",", ":"))
        (HERE / "regimes.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
        write_page(figures, HERE)
    if asked.page:
        write_page(figures, HERE)


if __name__ == "__main__":
    main()
