"""Street scenes drawn from a seed with numpy and Pillow: the pictures behind StreetsQA and GlimpseQA."""
