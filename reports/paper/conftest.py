"""Puts the study's scripts, which import each other by name, on the path of their tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
