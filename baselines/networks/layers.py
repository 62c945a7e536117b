"""The layers of hyperprior and ELIC, with the parameter names, the draws and the arithmetic of compressai's.

B batch   C channels   H, W height and width
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

_PEDESTAL_ROOT = 2.0**-18


def conv(n_in: int, n_out: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    """A convolution that divides height and width by its stride."""
    return nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2)


def deconv(n_in: int, n_out: int, kernel: int = 5, stride: int = 2) -> nn.ConvTranspose2d:
    """A transposed convolution that multiplies height and width by its stride."""
    return nn.ConvTranspose2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, output_padding=stride - 1)


def round_straight_through(x: Tensor) -> Tensor:
    """round(x), with the gradient of x."""
    return (x.round() - x).detach() + x


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: Tensor) -> Tensor:
        ctx.save_for_backward(x, bound)
        return torch.max(x, bound)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, bound = ctx.saved_tensors
        (gradient,) = gradients
        return ((x >= bound) | (gradient < 0)) * gradient, None


class LowerBound(nn.Module):
    """max(x, bound); below the bound only a gradient towards it passes."""

    bound: Tensor

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.register_buffer("bound", torch.tensor([bound]))

    def forward(self, x: Tensor) -> Tensor:
        """The larger of the two, elementwise."""
        y: Tensor = _LowerBound.apply(x, self.bound)  # type: ignore[no-untyped-call]
        return y


class NonNegative(nn.Module):
    """A parameter p >= minimum, stored as sqrt(p + pedestal), so that its gradient vanishes near 0."""

    pedestal: Tensor

    def __init__(self, minimum: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("pedestal", torch.tensor([_PEDESTAL_ROOT**2]))
        self.lower_bound = LowerBound((minimum + _PEDESTAL_ROOT**2) ** 0.5)

    def kept(self, p: Tensor) -> Tensor:
        """The stored form of a value."""
        return (p + self.pedestal).max(self.pedestal).sqrt()

    def forward(self, kept: Tensor) -> Tensor:
        """The value of a stored form."""
        y: Tensor = self.lower_bound(kept) ** 2 - self.pedestal
        return y


class GDN(nn.Module):
    """Generalised divisive normalisation (Balle et al., arXiv 1511.06281).

    y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2), or x_i times that root for the inverse.
    """

    def __init__(self, n_channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta_reparam = NonNegative(minimum=1e-6)
        self.beta = nn.Parameter(self.beta_reparam.kept(torch.ones(n_channels)))
        self.gamma_reparam = NonNegative()
        self.gamma = nn.Parameter(self.gamma_reparam.kept(0.1 * torch.eye(n_channels)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The normalised channels."""
        beta, gamma = self.beta_reparam(self.beta), self.gamma_reparam(self.gamma)
        norm = conv2d(x_BCHW**2, gamma[:, :, None, None], beta)
        return x_BCHW * (norm.sqrt() if self.inverse else norm.rsqrt())


class CheckerboardConv2d(nn.Conv2d):
    """A convolution that sees, around each position, only the positions of the other colour of a checkerboard.

    The masked weights are set to zero in place and take part in the gradient, as compressai's do: the norm at which
    gradients are clipped is then the same.
    """

    mask: Tensor

    def __init__(self, n_in: int, n_out: int, kernel: int = 5) -> None:
        super().__init__(n_in, n_out, kernel, padding=kernel // 2)
        mask = torch.ones_like(self.weight.data)
        mask[:, :, 0::2, 0::2] = 0
        mask[:, :, 1::2, 1::2] = 0
        self.register_buffer("mask", mask)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The response of the other colour."""
        self.weight.data = self.weight.data * self.mask
        return super().forward(x_BCHW)


class ResidualBottleneckBlock(nn.Module):
    """x plus a 3 x 3 convolution between two 1 x 1 ones that halve and restore the channels."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.conv1 = conv(n_channels, n_channels // 2, 1, 1)
        self.conv2 = conv(n_channels // 2, n_channels // 2, 3, 1)
        self.conv3 = conv(n_channels // 2, n_channels, 1, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The block's response."""
        y: Tensor = self.conv3(self.conv2(self.conv1(x_BCHW).relu()).relu())
        return y + x_BCHW


class _ResidualUnit(nn.Module):
    def __init__(self, n_channels: int) -> None:
        super().__init__()
        half = n_channels // 2
        self.conv = nn.Sequential(
            conv(n_channels, half, 1, 1), nn.ReLU(), conv(half, half, 3, 1), nn.ReLU(), conv(half, n_channels, 1, 1)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y: Tensor = self.conv(x_BCHW)
        y += x_BCHW  # In place: under autocast the sum keeps the convolution's bfloat16.
        return y.relu()


class AttentionBlock(nn.Module):
    """x + a(x) * sigmoid(b(x)), the simplified attention of Cheng et al. (arXiv 2001.01568)."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(_ResidualUnit(n_channels) for _ in range(3)))
        self.conv_b = nn.Sequential(*(_ResidualUnit(n_channels) for _ in range(3)), conv(n_channels, n_channels, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The gated response."""
        y: Tensor = self.conv_a(x_BCHW) * self.conv_b(x_BCHW).sigmoid()
        y += x_BCHW
        return y
