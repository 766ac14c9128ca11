"""Extraction of final answers and their comparison with gold answers.

`extract` finds the answer in a response, `equal` compares two answers, `grade` does both and says
why, `cluster` groups equal answers for majority votes. Importing this package starts no process and
imports neither SymPy nor torch; `README.md` in this folder lists what counts as equal.
"""

from __future__ import annotations

from nabla_eval.grading.equal import GRADERS, Grade, close, cluster, equal, grade, grade_batch
from nabla_eval.grading.extract import extract
from nabla_eval.grading.worker import GradingError

__all__ = [
    "GRADERS",
    "Grade",
    "GradingError",
    "close",
    "cluster",
    "equal",
    "extract",
    "grade",
    "grade_batch",
]
