"""Pictures through a network and the container of its strings.

The transforms g_a and g_s run where the backbone's weights are. All that decides how symbols are coded runs on the CPU
in whole numbers, so that what one machine encodes any other decodes.

    B batch (always 1)   H, W padded height and width in px
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import pad

from baselines.networks.network import MULTIPLE_PX, move
from baselines.networks.weights import fingerprint
from baselines.neural_container import MODEL_BYTES, CodedPicture, fits, pack, unpack
from harness.errors import DataError


class CodesPictures(Protocol):
    """A network whose tables are final."""

    n_strings: int

    @property
    def g_a(self) -> nn.Module:
        """From pictures to y."""
        ...

    @property
    def g_s(self) -> nn.Module:
        """From y to pictures."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Every weight and table."""
        ...

    def make_exact(self) -> None:
        """Computes scales and means in whole numbers from now on."""
        ...

    def compress(self, x_13HW: Tensor) -> list[bytes]:
        """The strings of a picture in 0 .. 1 whose sides are multiples of MULTIPLE_PX."""
        ...

    def decompress(self, strings: Sequence[bytes], height_px: int, width_px: int) -> Tensor:
        """The picture of strings; raises BitstreamError for strings that this network did not make."""
        ...


class PictureCoder:
    """Codes pictures of up to ``max_pixels`` with a network whose transforms run on ``device``."""

    def __init__(self, net: CodesPictures, device: torch.device | None = None) -> None:
        self.net = net
        self.model = fingerprint(net.state_dict(), MODEL_BYTES)
        net.make_exact()
        for transform in (net.g_a, net.g_s):
            move(transform, torch.device("cpu") if device is None else device)

    @torch.inference_mode()
    def encode(self, image: Image.Image, max_pixels: int) -> bytes:
        """The picture as a file of :mod:`baselines.neural_container`; raises DataError for one beyond its limits."""
        if not fits(*image.size, max_pixels):
            raise DataError(
                f"a picture of {image.width} x {image.height} px has {image.width * image.height} px; neural codecs "
                f"take sides below 65536 px and at most {max_pixels} px"
            )
        return pack(self.model, CodedPicture(*image.size, tuple(self.net.compress(padded(image)))))

    @torch.inference_mode()
    def decode(self, body: bytes, max_pixels: int) -> Image.Image:
        """The picture in a file; raises BitstreamError where there is none, or one of another model, or beyond limits.

        The file's claims are checked against ``max_pixels`` and the length of its strings before any computing.
        """
        picture = unpack(body, self.model, self.net.n_strings, max_pixels)
        height_px, width_px = (-(-side // MULTIPLE_PX) * MULTIPLE_PX for side in (picture.height_px, picture.width_px))
        x_13HW = self.net.decompress(picture.strings, height_px, width_px)
        x_HW3 = x_13HW[0, :, : picture.height_px, : picture.width_px].permute(1, 2, 0)
        return Image.fromarray((x_HW3 * 255).round().to(torch.uint8).numpy())


def padded(image: Image.Image) -> Tensor:
    """The picture as float32 x_13HW in 0 .. 1, its last row and column repeated up to multiples of MULTIPLE_PX."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    return pad(pixels, (0, -image.width % MULTIPLE_PX, 0, -image.height % MULTIPLE_PX), mode="replicate")
