"""Differentiable textual optimisation: gradient descent on token logits (the paper's Alg. 2, 4)."""
