"""What is computed from a run's rows: each quantity in one place."""
