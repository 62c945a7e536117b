"""Benchmarks: samples, files, the bundled stand-ins, scoring."""
