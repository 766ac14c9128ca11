"""One report per subject, made from runs: the tables that `nabla-eval report` shows."""
