"""Runs: stored, selected from, summarised, and judged valid or not."""
