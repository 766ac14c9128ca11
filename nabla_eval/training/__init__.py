"""The training-based rows of the comparison, SFT and GRPO, on TRL (extra `nabla-eval[train]`).

Data are read, cleaned of evaluation problems and subsampled in `data`; `reward` says what a right
answer is; `sft` and `grpo` hand both to TRL's trainers. The result is an ordinary checkpoint,
evaluated as `pretrained=OUTPUT,method=greedy`. Importing this package loads neither
TRL nor torch.
"""
