"""Numerical and symbolic checks of the mathematics behind ∇-Reasoner (arXiv 2603.04948).

The package stands alone. `python -m nabla_theory` runs every check; README.md has the statements.
"""
