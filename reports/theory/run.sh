#!/usr/bin/env bash
# Checks the mathematics and writes README.md, checks.json and the figures here; twenty seeds, some minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
python -m theory --seed 0 --seeds 20 --report reports/theory
