"""What is shown of a run: the table, the figures."""
