#!/usr/bin/env bash
# SFT and GRPO on an under-trained embedded policy: writes README.md, training.json and curves.png.
# About half an hour on one core. WORK keeps models and samples (default: results/training); a run that
# was stopped goes on where it was.
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

# Two policies that were trained for fewer steps than the shipped one's 1,000: of 400 steps, whose greedy
# answers are mostly false arithmetic, and of 700. GRPO needs one that is right often enough at T = 1 to
# have something to reinforce (reports/LOG.md tells of 400 steps).
start() { # folder, steps
    if [ ! -f "$work/$1/policy_training.json" ]; then
        python reports/embedded/train.py --output "$work/$1" --policy-steps "$2" --policy-only --seed 0
    fi
}
sft() { # folder, start
    train "$1" sft --policy "$work/$2/policy" --size 16000 --epochs 2 --batch-size 128 --lr 1e-3 \
        --schedule cosine --warmup 0.1
}
start start400 400
start start 700
sft sft400 start400
sft sft start
train grpo grpo --policy "$work/start/policy" --size 9600 --batch-size 64 --generations 16 --lr 1e-4 \
    --beta 0.04 --scale none --warmup 0.1 --max-new-tokens 12 --save-every 25 --keep 9

evaluate start400 "$work/start400/policy"
evaluate sft400 "$work/sft400"
evaluate start "$work/start/policy"
evaluate sft "$work/sft"
evaluate grpo "$work/grpo"
python reports/training/report.py "$work" --output reports/training
