"""Figures: one module each; they draw rows and compute nothing."""
