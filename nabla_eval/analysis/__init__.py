"""From records to estimates with honest intervals (DESIGN 8); nothing here imports torch."""
