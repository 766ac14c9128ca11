"""Runs methods: groups their requests, executes each group as batches, sends results back."""
