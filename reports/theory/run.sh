#!/usr/bin/env bash
# Checks the mathematics and writes README.md, checks.json and the figures here; five seeds.
set -euo pipefail
cd "$(dirname "$0")/../.."
python -m theory --seed 0 --seeds 5 --report reports/theory
