"""Who may grade final answers. Imports nothing, for the command line's sake."""

from __future__ import annotations

GRADERS = ("nabla_eval", "math_verify")
"""This package, or math-verify alone, as most published figures are graded."""
