"""The training-based rows of the comparison, SFT and GRPO, on TRL (extra `nabla-eval[train]`).

Data are read, cleaned of evaluation problems and subsampled in `data`; `reward` says what a right
answer is; `trainers` hands both to TRL. The result is an ordinary checkpoint,
evaluated as `pretrained=OUTPUT,method=greedy`. Importing this package loads neither
TRL nor torch.
"""
