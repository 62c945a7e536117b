"""The scale hyperprior (Balle et al., arXiv 1802.01436)."""

from baselines.neural_codec import BundledCodec


class Hyperprior(BundledCodec):
    """y is coded with zero-mean Gaussians whose scales h_s finds from z; see :mod:`baselines.networks.hyperprior`."""

    kind = "hyperprior"
