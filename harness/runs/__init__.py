"""Where runs are kept: their folder, rows, manifest and lock."""
