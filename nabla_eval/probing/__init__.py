"""What a gradient can buy on a pair and its problems: `nabla-eval probe` and `nabla_eval.probe`.

Five sections, a file each: `room`, `reach`, `fidelity`, `advantage`, `reward`. Every section has a
part that measures one problem through the engine's requests, and one that sums problems up with
intervals. `verdict` turns the sums into words (docs/probe.md).
"""
