"""Run folders: what an evaluation is, how it runs into a folder, and sweeps of many."""
