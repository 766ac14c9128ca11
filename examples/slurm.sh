#!/usr/bin/env bash
#SBATCH --job-name=nabla
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# One evaluation on a cluster whose compute nodes have no internet.
#   sbatch examples/slurm.sh results/aime24 --task nabla_aime24 --preset paper \
#       --set pretrained=/models/Qwen2.5-7B-Instruct --set reward=/models/Skywork-Reward-V2-Qwen3-4B
# An array: %a in an option is the number of the array task.
#   sbatch --array=0-3 examples/slurm.sh results/aime24/seed-%a --seed %a --task nabla_aime24 --preset paper ...
# On the login node, once: `nabla-eval data fetch problems` stores the problem sets (then export NABLA_DATA=$PWD/problems),
# and `hf download MODEL --local-dir /models/NAME` each model.
# Two minutes before its time is up, the run is stopped, keeps its answers, and the job is queued again.
set -euo pipefail
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false

here=${SLURM_SUBMIT_DIR:-$PWD}
cd "$here"
set -- "${@//%a/${SLURM_ARRAY_TASK_ID:-%a}}"
PROCESSES=${SLURM_GPUS_ON_NODE:-1} examples/torchrun.sh "$@" &
run=$!
# bash runs a trap only after the command in the foreground, so the run is in the background.
stop() {
    kill -TERM "$run"
    wait "$run" || true
    [ -z "${SLURM_JOB_ID:-}" ] || scontrol requeue "$SLURM_JOB_ID"
    exit 143
}
trap stop TERM
wait "$run"
