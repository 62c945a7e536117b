"""Benchmarks: samples, files, the bundled stand-ins, scoring."""

MIRROR_VARIABLE = "TOFC_HARNESS_DATA_MIRROR"
"""The environment variable with the URL of a mirror from which benchmarks are downloaded."""
