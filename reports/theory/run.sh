#!/usr/bin/env bash
# Checks the mathematics and writes README.md, checks.json and the figures here; three seeds, some minutes. (The tests repeat the claims that draw most over twenty.)
set -euo pipefail
cd "$(dirname "$0")/../.."
python -m nabla_theory --seed 0 --seeds 3 --report reports/theory
