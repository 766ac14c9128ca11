#!/usr/bin/env bash
# Where does a gradient pay? Runs the beds that are not in results/regimes yet and writes README.md
# and regimes.json.gz here. About 80 minutes of one core that has nothing else to do.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
python reports/regimes/regimes.py "$@"
