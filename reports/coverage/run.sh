#!/usr/bin/env bash
# Simulates how often the intervals cover the truth and writes ../coverage.md; about five minutes of one core.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1
python reports/coverage/coverage_page.py --output reports/coverage.md
