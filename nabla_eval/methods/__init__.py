"""Test-time methods as generators over requests; none of them imports torch (DESIGN 4)."""
