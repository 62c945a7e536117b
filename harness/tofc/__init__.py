"""Task-oriented feature compression: merging, entropy models, router, bitstream, codec (section IV of the paper)."""
