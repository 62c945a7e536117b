"""Links: when the last byte of a transfer leaves, exactly and without stepping through packets."""
