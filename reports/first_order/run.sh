#!/usr/bin/env bash
# Runs the study again at the commit that it was made at, in a checkout under results/first_order: what it
# compares (aligned reward models, ∇-Reasoner up to the first error) has been removed since. The page, its
# figures and study.json come to lie in that checkout. Needs the repository's history; what is done already
# is kept. About two and a half hours of one core to train, five to decode.
set -euo pipefail
cd "$(dirname "$0")/../.."
commit=4771e3777c3ba1664cc1636fe021045a4e7ebce7
checkout=$PWD/results/first_order/${commit:0:7}
[ -d "$checkout" ] || git worktree add --detach "$checkout" "$commit"
export PYTHONPATH="$checkout${PYTHONPATH:+:$PYTHONPATH}"
exec bash "$checkout/reports/first_order/run.sh"
