"""How runs are stored: their folder, rows, manifest and lock."""
