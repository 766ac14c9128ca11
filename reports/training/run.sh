#!/usr/bin/env bash
# SFT and GRPO on an under-trained embedded policy: writes README.md, training.json and curves.png.
# About 20 minutes on one core. WORK keeps models and samples (default: results/training); a run
# that was stopped goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
work=${WORK:-results/training}

train() { # folder, then the command
    local output=$work/$1 resume=()
    shift
    if [ ! -f "$output/training.json" ]; then
        if [ -f "$output/options.json" ]; then resume=(--resume); fi
        nabla-eval train "$@" --output "$output" --seed 0 "${resume[@]}"
    fi
}

evaluate() { # name, checkpoint
    if [ ! -d "$work/evaluated/$1" ]; then
        lm_eval --model nabla --model_args "pretrained=$2,method=greedy" --batch_size 256 \
            --include_path "$(nabla-eval tasks path)" --tasks nabla_countdown \
            --log_samples --output_path "$work/evaluated/$1"
    fi
}

if [ ! -f "$work/start/policy_training.json" ]; then
    nabla-eval embedded train --output "$work/start" --policy-steps 400 --policy-only --seed 0
fi
start=$work/start/policy
train sft sft --policy "$start" --size 16000 --epochs 2 --batch-size 128 --lr 1e-3 \
    --schedule cosine --warmup 0.1
train grpo grpo --policy "$start" --size 5120 --batch-size 64 --lr 2e-4 --warmup 0.1 \
    --temperature 0.5 --max-new-tokens 12

evaluate start "$start"
evaluate sft "$work/sft"
evaluate grpo "$work/grpo"
python reports/training/report.py "$work" --output reports/training
