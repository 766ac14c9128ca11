"""The claims, by topic; each function of a Context returns rows for theory.checks."""
