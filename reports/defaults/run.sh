#!/usr/bin/env bash
# Chooses the defaults of ∇-Reasoner: writes sweep.md, sweep.json and accuracy_calls.png here.
set -euo pipefail
cd "$(dirname "$0")/../.."
python reports/defaults/sweep.py --problems 600 --seed 0 --output reports/defaults
