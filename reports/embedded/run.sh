#!/usr/bin/env bash
# Runs the three studies on the embedded pair and renders them here; what is done already is kept.
# About an hour of one core for four seeds.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
for study in scaling ablations search; do
  nabla-eval sweep "reports/embedded/$study.yaml" --output "results/embedded/$study" --jobs 2
  nabla-eval report all "results/embedded/$study" --output "reports/embedded/$study"
  gzip -nf9 "reports/embedded/$study/report.json"
done
python reports/embedded/answers.py results/embedded
