"""Scenarios: YAML into frozen, strict models."""
