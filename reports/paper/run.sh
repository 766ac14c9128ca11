#!/usr/bin/env bash
# Checks what the paper prints (printed.yaml) and writes ../paper.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
python reports/paper/audit.py reports/paper/printed.yaml --output reports/paper.md
