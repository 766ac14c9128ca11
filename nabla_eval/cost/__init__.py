"""What a run costs: the ledger of model calls, and floating-point operations."""

from nabla_eval.cost.ledger import Ledger

__all__ = ["Ledger"]
