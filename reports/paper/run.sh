#!/usr/bin/env bash
# Checks what the paper prints (printed.yaml) and writes ../paper.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
nabla-eval report paper reports/paper/printed.yaml --format markdown --output reports/paper.md
