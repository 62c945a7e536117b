"""What the networks of the learned image codecs have in common.

      g_a          entropy models           g_s
x ---------> y ---- strings of y, z ---> y_hat ---------> x_hat

B batch (1 where strings are made)   C channels   H, W padded height and width in px
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines.networks.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional, scale_table
from baselines.networks.exact_convolution import make_exact
from harness.errors import CheckpointError

MULTIPLE_PX = 64
"""The stride of z: four halvings to y, two more to z."""
Y_STRIDE = 16


def size(state: Mapping[str, Tensor], name: str, dimension: int) -> int:
    """One dimension of a convolution's weight, its number of channels; raises CheckpointError where it is absent."""
    if name not in state or state[name].ndim != 4:
        raise CheckpointError(f"has no convolution {name}")
    return state[name].shape[dimension]


class Network(nn.Module):
    """A network that codes pictures; its state dict is that of compressai's class of the same name."""

    g_a: nn.Module
    g_s: nn.Module
    n_strings: int
    exact: ClassVar[Sequence[str]]
    """The submodules from which scales and means come."""

    @staticmethod
    @abstractmethod
    def sizes(state: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """The network's arguments, from a state dict's shapes; raises CheckpointError for another model's state."""

    @abstractmethod
    def likelihoods(self, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The input of g_s, and the likelihoods of ``y`` and ``z``; in training as in the paper, with noise."""

    @abstractmethod
    def encode_y(self, y: Tensor) -> list[bytes]:
        """The strings of y, that of z last."""

    @abstractmethod
    def decode_y(self, strings: Sequence[bytes], height: int, width: int) -> Tensor:
        """y_hat of strings, at ``height`` x ``width`` positions of z; raises BitstreamError for any others."""

    @abstractmethod
    def parts(self, height: int, width: int) -> list[tuple[EntropyModel, int]]:
        """Of each string its entropy model and how many symbols it has, at ``height`` x ``width`` positions of z."""

    def forward(self, x_B3HW: Tensor) -> dict[str, Tensor | dict[str, Tensor]]:
        """``x_hat`` and the ``likelihoods``."""
        y_hat, likelihoods = self.likelihoods(self.g_a(x_B3HW))
        return {"x_hat": self.g_s(y_hat), "likelihoods": likelihoods}

    def compress(self, x_13HW: Tensor) -> list[bytes]:
        """The strings of a picture in 0 .. 1 whose sides are multiples of MULTIPLE_PX."""
        return self.encode_y(self.g_a(x_13HW))

    def decompress(self, strings: Sequence[bytes], height_px: int, width_px: int) -> Tensor:
        """The picture x_13HW in 0 .. 1 of strings; raises BitstreamError for strings that this network did not make.

        Strings that cannot hold so large a picture are refused before anything is computed.
        """
        height, width = height_px // MULTIPLE_PX, width_px // MULTIPLE_PX
        for string, (model, n_symbols) in zip(strings, self.parts(height, width), strict=True):
            model.coder.check(string, n_symbols, each_table=isinstance(model, EntropyBottleneck))
        x_13HW: Tensor = self.g_s(self.decode_y(strings, height, width))
        return x_13HW.clamp(0, 1)

    def update(self, scales_T: Tensor | None = None, *, force: bool = False) -> None:
        """Make the tables that are missing, or with ``force`` all of them; raises CheckpointError where that fails."""
        for model in self.modules():
            if isinstance(model, EntropyBottleneck) and (force or not model.has_tables):
                model.update()
            if isinstance(model, GaussianConditional) and (force or not model.has_tables):
                model.update(scale_table() if scales_T is None else scales_T)

    def make_exact(self) -> None:
        """Put exact convolutions wherever scales and means come from, for inference that is the same on any machine."""
        for name in self.exact:
            make_exact(self.get_submodule(name))


def move(transform: nn.Module, device: torch.device) -> None:
    """Have a transform run on a device while its neighbours stay on the CPU."""
    transform.to(device)
    transform.register_forward_pre_hook(lambda _, inputs: tuple(x.to(device) for x in inputs))
    transform.register_forward_hook(lambda _, __, output: output.cpu())
