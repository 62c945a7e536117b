"""Benchmarks: samples, files, the bundled stand-ins, scoring."""

MIRROR_VARIABLE = "TOFC_HARNESS_DATA_MIRROR"
"""The variable of the environment that has the URL from which benchmarks are fetched, in the place of their own."""
