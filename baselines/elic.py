"""ELIC (He et al., arXiv 2203.10886)."""

from baselines.neural_codec import BundledCodec


class Elic(BundledCodec):
    """y in groups of channels, each in two passes given z and what went before; see :mod:`baselines.networks.elic`."""

    kind = "elic"
