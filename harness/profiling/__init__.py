"""Clocks, sensors, workers, and the machine."""
