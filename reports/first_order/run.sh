#!/usr/bin/env bash
# Trains the pairs, tunes on the validation problems and decodes the test problems; what is done
# already is kept. About two and a half hours of one core to train, five to decode.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive TOKENIZERS_PARALLELISM=false
home=results/first_order
pairs=$home/pairs

policy() { # cell, numbers and training options: a policy trained here
  local folder="$pairs/$1" numbers="$2"; shift 2
  [ -f "$folder/policy_training.json" ] ||
    nabla-eval embedded train --output "$folder" --numbers "$numbers" --policy-only "$@"
}

shipped_policy() { # cell: a copy of the shipped policy with its card
  local weights; weights=$(python -c "from nabla_eval.embedded import WEIGHTS; print(WEIGHTS)")
  mkdir -p "$pairs/$1"
  cp -r "$weights/policy" "$weights/card.json" "$pairs/$1/"
}

# Of each difficulty from the strong policy's weights, on samples of both policies; kinds differ in
# the alignment term alone: one seed's draw the same problems, responses and batches.
reward_model() { # numbers, kind, seed, training options
  local numbers="$1" seed="$3" folder="$pairs/$1/$2-$3"; shift 3
  [ -f "$folder/README.md" ] && return # the last file that training writes
  mkdir -p "$folder"
  cp -r "$pairs/$numbers-strong/." "$folder/"
  nabla-eval embedded train --output "$folder" --numbers "$numbers" --seed "$seed" --reward-only \
    --reward-steps 500 --rivals 8 --also "$pairs/$numbers-weak" --problems 400 "$@"
}

shipped_policy 3-strong
policy 3-weak 3 --policy-steps 400
policy 4-strong 4 --start shipped --policy-steps 1800
policy 4-weak 4 --start shipped --policy-steps 500
for numbers in 3 4; do
  for seed in 0 1 2; do
    reward_model "$numbers" plain "$seed"
    reward_model "$numbers" aligned "$seed" --alignment gold --alignment-at doubts --alignment-beta 3
  done
done

decode() { python reports/first_order/decode.py --pairs "$pairs" --output "$home/runs" --jobs 2 "$@"; }
tables() { python reports/first_order/tables.py "$1" --pairs "$pairs" --runs "$home/runs"; }
decode --split validation
tables tune
decode --split test
tables report
