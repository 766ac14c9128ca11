#!/usr/bin/env bash
# Runs both studies on the embedded pair and renders them here; what is done already is kept.
set -euo pipefail
cd "$(dirname "$0")/../.."
for study in scaling ablations; do
  nabla-eval sweep "reports/embedded/$study.yaml" --output "results/embedded/$study" --jobs 2
  nabla-eval report all "results/embedded/$study" --output "reports/embedded/$study"
done
python reports/embedded/answers.py results/embedded
