"""The problem sets that the tasks ask: their size, their hub data set and its columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nabla_eval.errors import ConfigError, suggest


@dataclass(frozen=True)
class Hub:
    """A data set on the hub, at a revision that does not move, and what its columns are called."""

    path: str
    revision: str
    split: str
    name: str | None = None
    id: str = "id"  # "" where the rows have none
    problem: str = "problem"
    answer: str = "answer"

    def __str__(self) -> str:
        return f"{self.path}@{self.revision[:7]}"


@dataclass(frozen=True)
class ProblemSet:
    """One set of problems. `file` is its name in a folder of problems, as `data fetch` writes it.

    `parts` are files that hold only the first so many of the items; the whole is taken first.
    """

    name: str
    title: str
    items: int
    file: str
    hub: Hub
    integers: bool = True  # every answer is one
    parts: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def files(self) -> Mapping[str, int]:
        """Names under which a folder may hold the set, with the number of items that each has."""
        return {self.file: self.items, **self.parts}


_TABLE = [
    ProblemSet(
        "aime24", "AIME 2024, I and II", 30, "aime24.jsonl",
        Hub("HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", "train"),
    ),
    ProblemSet(
        "aime25", "AIME 2025, I and II", 30, "aime25.jsonl",
        Hub("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", "test"),
    ),
    ProblemSet(
        "amc", "AMC 12, 2022 and 2023", 83, "amc83.jsonl",
        Hub("AI-MO/aimo-validation-amc", "69d78a4a2c840e82d69af6bc742bda09005f6316", "train"),
    ),
    ProblemSet(
        "amc23", "AMC 12, 2023 (40 of the 83)", 40, "amc23.jsonl",
        Hub("math-ai/amc23", "80815d37005feb82cd7f8fbc6901d5d3eff43057", "test",
            problem="question"),
    ),
    ProblemSet(
        "math500", "MATH-500", 500, "math500.jsonl",
        Hub("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "test",
            id="unique_id"),
        integers=False,
    ),
    ProblemSet(
        "gsm8k", "GSM8K, test", 1319, "gsm8k.jsonl",
        Hub("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "test",
            name="main", id="", problem="question"),
        parts={"gsm8k_first200.jsonl": 200},
    ),
]  # fmt: skip
SETS = {problems.name: problems for problems in _TABLE}


def problem_set(name: str) -> ProblemSet:
    """Return the set of that name, or of its task `nabla_<name>`. Raises `ConfigError`."""
    short = name.removeprefix("nabla_")
    if short not in SETS:
        raise ConfigError(f"There is no problem set {name!r}. {suggest(short, SETS)}")
    return SETS[short]
