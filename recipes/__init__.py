"""What makes the bundled weights from seeds: the miniatures, the small image codecs, the ablations; not installed."""
