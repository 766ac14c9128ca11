"""The cost of a run: the ledger of model calls, and floating-point operations."""

from nabla_eval.cost.ledger import Ledger

__all__ = ["Ledger"]
