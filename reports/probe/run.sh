#!/usr/bin/env bash
# Expected against measured margins of ∇-Reasoner over its twin: writes README.md and a JSON file for each pair here.
# About half an hour of one core for each embedded pair, a minute for the third; the same command goes on where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
python reports/probe/validate.py --pair countdown
python reports/probe/validate.py --pair words --probe 80 --test 200
python reports/probe/validate.py --pair additive --probe 120 --test 200
