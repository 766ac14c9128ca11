"""Estimates as tables, for a terminal, Markdown and JSON from one source of numbers."""
