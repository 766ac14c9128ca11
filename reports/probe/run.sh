#!/usr/bin/env bash
# Expected against measured margins of ∇-Reasoner over its twin: writes README.md, countdown.json and words.json here.
# About half an hour of one core for each embedded pair; the same command goes on where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
python reports/probe/validate.py --pair countdown
python reports/probe/validate.py --pair words --probe 80 --test 200
