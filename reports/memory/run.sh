#!/usr/bin/env bash
# What a 7B policy and a 4B reward model need on one GPU, by arithmetic: writes ../memory.md in seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
python reports/memory/memory_page.py reports/memory.md
