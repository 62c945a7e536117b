"""The scale hyperprior (Balle et al., arXiv 1802.01436).

          h_a       entropy bottleneck      h_s
|y| ---------> z ---------------------> z_hat ------> scales of y's zero-mean Gaussians
"""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from baselines.networks.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from baselines.networks.layers import GDN, conv, deconv
from baselines.networks.network import MULTIPLE_PX, Y_STRIDE, Network, size


class ScaleHyperprior(Network):
    """N channels inside and M of y; compressai's ScaleHyperprior key for key."""

    n_strings = 2
    exact = ("h_s",)

    def __init__(self, N: int, M: int) -> None:
        super().__init__()
        self.N, self.M = N, M
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.g_a = nn.Sequential(conv(3, N), GDN(N), conv(N, N), GDN(N), conv(N, N), GDN(N), conv(N, M))
        self.g_s = nn.Sequential(
            deconv(M, N),
            GDN(N, inverse=True),
            deconv(N, N),
            GDN(N, inverse=True),
            deconv(N, N),
            GDN(N, inverse=True),
            deconv(N, 3),
        )
        self.h_a = nn.Sequential(conv(M, N, 3, 1), nn.ReLU(), conv(N, N), nn.ReLU(), conv(N, N))
        self.h_s = nn.Sequential(deconv(N, N), nn.ReLU(), deconv(N, N), nn.ReLU(), conv(N, M, 3, 1), nn.ReLU())
        self.gaussian_conditional = GaussianConditional()

    @staticmethod
    def sizes(state: Mapping[str, Tensor]) -> tuple[int, int]:
        """N and M, from the first and the last convolution of g_a."""
        return size(state, "g_a.0.weight", 0), size(state, "g_a.6.weight", 0)

    def likelihoods(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """y_hat, and the likelihoods of ``y`` and ``z``."""
        z_hat, of_z = self.entropy_bottleneck(self.h_a(y.abs()))
        y_hat, of_y = self.gaussian_conditional(y, self.h_s(z_hat))
        return y_hat, {"y": of_y, "z": of_z}

    def encode_y(self, y: Tensor) -> list[bytes]:
        """The strings of y and z."""
        of_z, z_hat = self.entropy_bottleneck.encode(self.h_a(y.abs()))
        of_y, _ = self.gaussian_conditional.encode(y, self.h_s(z_hat))
        return [of_y, of_z]

    def decode_y(self, strings: Sequence[bytes], height: int, width: int) -> Tensor:
        """y_hat of both strings."""
        of_y, of_z = strings
        return self.gaussian_conditional.decode(of_y, self.h_s(self.entropy_bottleneck.decode(of_z, height, width)))

    def parts(self, height: int, width: int) -> list[tuple[EntropyModel, int]]:
        """M channels of y, and N of z."""
        y_of_z = (MULTIPLE_PX // Y_STRIDE) ** 2
        return [
            (self.gaussian_conditional, self.M * y_of_z * height * width),
            (self.entropy_bottleneck, self.N * height * width),
        ]
