"""The side that lm-eval sees: the model class, its registration, and where the tasks are."""
