#!/usr/bin/env bash
# How far straight-through is from the gradient it stands for: writes README.md and measured.json here.
# A few minutes of one core, on the embedded pair.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
python reports/straight_through/measure.py --problems 100 --seed 0
