"""`python -m nabla_eval` is `nabla-eval`: for torchrun and others that start a module."""

from nabla_eval.cli.main import main

main(prog_name="nabla-eval")
