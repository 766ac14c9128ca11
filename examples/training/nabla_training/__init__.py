"""The training-based rows of the comparison, SFT and GRPO, on TRL (extra `nabla-eval[train]`).

The result is an ordinary checkpoint, evaluated as `pretrained=OUTPUT,method=greedy`. Importing this
package loads neither TRL nor torch.
"""
