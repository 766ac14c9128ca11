#!/usr/bin/env bash
# One evaluation on all GPUs of one machine: each process answers a share of the problems.
#   examples/torchrun.sh results/aime24 --task nabla_aime24 --preset paper
# The same command continues a run that was stopped, also with another number of GPUs.
set -euo pipefail
output=${1:?usage: examples/torchrun.sh FOLDER [options of nabla-eval run]}
shift
processes=${PROCESSES:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}

exec torchrun --standalone --nproc-per-node "$processes" -m nabla_eval run --output "$output" "$@"
