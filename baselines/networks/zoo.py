"""Image models of compressai's zoo, coded with this project's coder and, where scales come from, in whole numbers.

The classes are compressai's. Their own coder reads beyond the end of a string and writes before the start of a short
one, and turns every table into lists at each call; here each entropy model has a :class:`baselines.rans.Rans`.

    B batch (always 1)   C channels   H, W height and width
"""

import importlib
import importlib.util
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from baselines.compressai_zoo import RANDOM
from baselines.networks.exact_convolution import ExactConvolution, make_exact
from baselines.networks.network import MULTIPLE_PX, Y_STRIDE
from baselines.networks.weights import load, make_ready, read
from baselines.rans import Rans
from harness.errors import CheckpointError, UnavailableError

_Y_OF_Z = MULTIPLE_PX // Y_STRIDE


def network(model: str, quality: int | None, weights: str) -> "ZooNetwork":
    """The model at its published size; ``weights`` is a safetensors file, or ``random`` for weights of a fixed seed.

    Raises UnavailableError where compressai is not installed, CheckpointError where the weights are not the model's.
    """
    if importlib.util.find_spec("compressai") is None:
        raise UnavailableError(
            f"the scheme compressai needs the package compressai for {model}: pip install 'tofc-harness[compressai]' "
            "(its wheels are for x86-64 and Python up to 3.12)"
        )
    importlib.import_module("harness.models.torchvision_ops")
    kinds = importlib.import_module("compressai.registry").MODELS
    importlib.import_module("compressai.models")
    sizes = importlib.import_module("compressai.zoo.image").cfgs[model][quality] if quality else ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"{model} {quality}".encode()))
        net = kinds[model](*sizes)
    if weights == RANDOM:
        make_ready(f"{model} with random weights", net)
    else:
        path = Path(weights)
        load(path, net, read(path))
    return coded(net, weights)


def coded(net: Any, place: str) -> "ZooNetwork":
    """A network of compressai's whose tables are final, with the coding that its structure needs."""
    if hasattr(net, "latent_codec"):
        return _Checkerboard(net, place)
    if hasattr(net, "context_prediction"):
        return _Autoregressive(net, place)
    return _Hyperprior(net, place) if hasattr(net, "h_s") else _Factorized(net, place)


class ZooNetwork(ABC):
    """A model of compressai's in the form that :class:`baselines.networks.pictures.PictureCoder` uses."""

    n_strings: int

    def __init__(self, net: Any, place: str) -> None:
        self.net = net
        self.coders: dict[nn.Module, Rans] = {}
        for name, module in net.named_modules():
            if hasattr(module, "_quantized_cdf"):
                tables = (module._quantized_cdf, module._cdf_length, module._offset)
                try:
                    self.coders[module] = coder = Rans(*(table.numpy() for table in tables))
                except CheckpointError as error:
                    raise CheckpointError(f"{place}: {name}: {error}") from None
                _code_with(module, coder)

    @property
    def g_a(self) -> nn.Module:
        """From pictures to y."""
        return self.net.g_a  # type: ignore[no-any-return]

    @property
    def g_s(self) -> nn.Module:
        """From y to pictures."""
        return self.net.g_s  # type: ignore[no-any-return]

    def state_dict(self) -> Mapping[str, Tensor]:
        """Every weight and table."""
        return self.net.state_dict()  # type: ignore[no-any-return]

    @abstractmethod
    def make_exact(self) -> None:
        """Computes scales and means in whole numbers from now on."""

    @abstractmethod
    def parts(self, height: int, width: int) -> list[tuple[nn.Module, int]]:
        """Of each string its entropy model and how many symbols it has, at ``height`` x ``width`` positions of z."""

    def shape(self, height: int, width: int) -> Any:
        """What compressai calls the shape of a picture whose z has this height and width."""
        return height, width

    def compress(self, x_13HW: Tensor) -> list[bytes]:
        """The strings of a picture in 0 .. 1 whose sides are multiples of MULTIPLE_PX."""
        return [string for (string,) in self.net.compress(x_13HW)["strings"]]

    def decompress(self, strings: Sequence[bytes], height_px: int, width_px: int) -> Tensor:
        """The picture x_13HW of strings; raises BitstreamError for strings that this network did not make.

        Strings that cannot hold so large a picture are refused before anything is computed.
        """
        height, width = height_px // MULTIPLE_PX, width_px // MULTIPLE_PX
        for string, (model, n_symbols) in zip(strings, self.parts(height, width), strict=True):
            self.coders[model].check(string, n_symbols, each_table=not hasattr(model, "scale_table"))
        return self._decoded(strings, height, width).clamp(0, 1)

    def _decoded(self, strings: Sequence[bytes], height: int, width: int) -> Tensor:
        x_13HW: Tensor = self.net.decompress([[string] for string in strings], self.shape(height, width))["x_hat"]
        return x_13HW


class _Factorized(ZooNetwork):
    """Only y, each channel with its own density."""

    n_strings = 1

    def make_exact(self) -> None:
        """There is no network for scales or means."""

    def parts(self, height: int, width: int) -> list[tuple[nn.Module, int]]:
        return [(self.net.entropy_bottleneck, self.net.M * _Y_OF_Z**2 * height * width)]

    def shape(self, height: int, width: int) -> tuple[int, int]:
        return _Y_OF_Z * height, _Y_OF_Z * width


class _Hyperprior(ZooNetwork):
    """y with Gaussians whose scales, and perhaps means, h_s computes from z."""

    n_strings = 2

    def make_exact(self) -> None:
        make_exact(self.net.h_s)

    def parts(self, height: int, width: int) -> list[tuple[nn.Module, int]]:
        of_y = (self.net.gaussian_conditional, self.net.M * _Y_OF_Z**2 * height * width)
        bottleneck = self.net.entropy_bottleneck
        return [of_y, (bottleneck, bottleneck.channels * height * width)]


class _Autoregressive(_Hyperprior):
    """y position by position, each given z and the positions before it (Minnen et al., arXiv 1809.02736)."""

    def __init__(self, net: Any, place: str) -> None:
        super().__init__(net, place)
        self.around = net.context_prediction.kernel_size[0] // 2
        # The context is computed one position at a time, on a crop that is as large as the kernel.
        net.context_prediction.padding = (0, 0)

    def make_exact(self) -> None:
        super().make_exact()
        make_exact(self.net.entropy_parameters)
        self.net.context_prediction = ExactConvolution(self.net.context_prediction)

    def compress(self, x_13HW: Tensor) -> list[bytes]:
        net = self.net
        y = net.g_a(x_13HW)
        z = net.h_a(y)
        of_z = net.entropy_bottleneck.compress(z)
        symbols: list[Tensor] = []
        indexes: list[Tensor] = []

        def next_symbols(row: int, column: int, index: Tensor, means: Tensor) -> Tensor:
            indexes.append(index)
            symbols.append((y[:, :, row, column] - means).round().int())
            return symbols[-1]

        self._scan(net.h_s(net.entropy_bottleneck.decompress(of_z, z.shape[2:])), next_symbols)
        coder = self.coders[net.gaussian_conditional]
        return [coder.encode(torch.cat(symbols).numpy(), torch.cat(indexes).numpy()), *of_z]

    def _decoded(self, strings: Sequence[bytes], height: int, width: int) -> Tensor:
        of_y, of_z = strings
        stream = self.coders[self.net.gaussian_conditional].stream(of_y)

        def next_symbols(row: int, column: int, index: Tensor, means: Tensor) -> Tensor:  # noqa: ARG001
            return torch.from_numpy(stream.read(index.numpy())).reshape(means.shape)

        z_hat = self.net.entropy_bottleneck.decompress([of_z], (height, width))
        y_hat = self._scan(self.net.h_s(z_hat), next_symbols)
        stream.close()
        x_13HW: Tensor = self.net.g_s(y_hat)
        return x_13HW

    def _scan(self, side_1KHW: Tensor, next_symbols: Callable[[int, int, Tensor, Tensor], Tensor]) -> Tensor:
        """y_hat, position by position: each step decodes symbols with their tables and means."""
        net, around = self.net, self.around
        _, _, height, width = side_1KHW.shape
        y_hat = pad(side_1KHW.new_zeros((1, net.M, height, width)), (around,) * 4)
        for row in range(height):
            for column in range(width):
                context = net.context_prediction(
                    y_hat[:, :, row : row + 2 * around + 1, column : column + 2 * around + 1]
                )
                given = torch.cat((side_1KHW[:, :, row : row + 1, column : column + 1], context), 1)
                scales, means = net.entropy_parameters(given)[:, :, 0, 0].chunk(2, 1)
                index = net.gaussian_conditional.build_indexes(scales)
                y_hat[:, :, row + around, column + around] = next_symbols(row, column, index, means) + means
        return y_hat[:, :, around : around + height, around : around + width].contiguous()


class _Checkerboard(ZooNetwork):
    """y in two passes, whole or in groups of channels: ELIC, and cheng2020 with a checkerboard."""

    def __init__(self, net: Any, place: str) -> None:
        super().__init__(net, place)
        of_y = net.latent_codec["y"]
        self.grouped = hasattr(of_y, "groups")
        self.groups = list(of_y.latent_codec.values()) if self.grouped else [of_y]
        self.sizes = [group.context_prediction.in_channels for group in self.groups]
        self.n_strings = 2 * len(self.groups) + 1

    def make_exact(self) -> None:
        make_exact(self.net.latent_codec["hyper"].h_s)
        make_exact(self.net.latent_codec["y"])

    def parts(self, height: int, width: int) -> list[tuple[nn.Module, int]]:
        half = _Y_OF_Z**2 * height * width // 2
        of_y = [(group.y.gaussian_conditional, n * half) for group, n in zip(self.groups, self.sizes, strict=True)]
        bottleneck = self.net.latent_codec["hyper"].entropy_bottleneck
        return [*(part for part in of_y for _ in range(2)), (bottleneck, bottleneck.channels * height * width)]

    def shape(self, height: int, width: int) -> dict[str, Any]:
        of_y = [(n, _Y_OF_Z * height, _Y_OF_Z * width) for n in self.sizes]
        return {"y": of_y if self.grouped else of_y[0], "hyper": (height, width)}


def _code_with(model: Any, coder: Rans) -> None:
    """Makes an entropy model of compressai write and read its strings with this project's coder."""
    if hasattr(model, "scale_table"):
        model.compress, model.decompress = partial(_compress, model, coder), partial(_decompress, model, coder)
        return
    medians = model._get_medians().detach()

    def compress(z: Tensor) -> list[bytes]:
        return _compress(model, coder, z, model._build_indexes(z.size()), medians)

    def decompress(strings: Sequence[bytes], size: tuple[int, int]) -> Tensor:
        return _decompress(model, coder, strings, model._build_indexes((1, model.channels, *size)), means=medians)

    model.compress, model.decompress = compress, decompress


def _compress(model: Any, coder: Rans, x: Tensor, index: Tensor, means: Tensor | None = None) -> list[bytes]:
    return [coder.encode(model.quantize(x, "symbols", means).numpy(), index.numpy())]


def _decompress(
    model: Any,
    coder: Rans,
    strings: Sequence[bytes],
    index: Tensor,
    dtype: torch.dtype = torch.float,
    means: Tensor | None = None,
) -> Tensor:
    (string,) = strings
    values = torch.from_numpy(coder.decode(string, index.numpy())).reshape(index.shape)
    x: Tensor = model.dequantize(values, means, dtype)
    return x
