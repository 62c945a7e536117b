"""Trained weights, and the recipes that make them from seeds."""
