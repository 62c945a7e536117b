"""Split inference without compression: visual features cross the link as half-precision numbers.

    P patches   V features a patch (C where they are merged)   D feature dimension

The payload is a header and the features, all little-endian::

    magic "RAWF" | flags u8 (1: merged) | n_h u8 | n_w u8 | P u8 | features a patch u16 | D u16 | height u32 | width u32
    P x V x D float16, in the order of the array
"""

import struct
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from PIL.Image import Image

from harness.data.sample import Question, Sample
from harness.errors import BitstreamError
from harness.models.contract import Backbone, Tiles
from harness.schemes import pictures
from harness.schemes.contract import Answer, Clock, MergeTo, OperatingPoint, Payload
from harness.schemes.device_half import features_of_image
from harness.schemes.server_half import answers
from harness.tofc.reducer import Merging

_HEADER = struct.Struct("<4s4B2H2I")
_MAGIC = b"RAWF"
_MERGED = 1


class RawFeaturesPoint(OperatingPoint):
    """``merge_to``: the share of a patch's features that the device keeps and sends; null sends them all."""

    merge_to: MergeTo | None = None


class RawFeatures:
    """The device runs the vision tower, and merges if the point says so; nothing is quantised beyond half precision."""

    Point: ClassVar[type[OperatingPoint]] = RawFeaturesPoint
    device_stages: ClassVar[tuple[str, ...]] = ("preprocess", "vision_encode", "merge", "encode")
    server_stages: ClassVar[tuple[str, ...]] = ("decode", "project", "prefill", "generate")

    def __init__(self, backbone: Backbone, point: RawFeaturesPoint) -> None:
        self.backbone = backbone
        self.point = point

    def on_device(self, sample: Sample, clock: Clock) -> Payload:
        """Encodes the pictures into features and packs those."""
        return Payload("features", pictures.pack([self._encoded(image, clock) for image in sample.images()]))

    def _encoded(self, image: Image, clock: Clock) -> bytes:
        x_PVD, tiles = features_of_image(self.backbone, image, Merging(), self.point.merge_to, clock)
        with clock.stage("encode"):
            return pack(x_PVD, tiles, merged=self.point.merge_to is not None)

    def on_server(self, payload: Payload, questions: Sequence[Question], clock: Clock) -> list[Answer]:
        """Unpacks the features and answers from them."""
        tokens = [self._tokens(body, clock) for body in pictures.unpack(payload.body)]
        return answers(self.backbone, tokens, questions, clock)

    def _tokens(self, body: bytes, clock: Clock) -> torch.Tensor:
        with clock.stage("decode"):
            x_PVD, tiles, merged = unpack(body)
            if x_PVD.shape[2] != self.backbone.feature_dim:
                raise BitstreamError(
                    f"the payload's features have {x_PVD.shape[2]} dimensions; "
                    f"{self.backbone.name} has {self.backbone.feature_dim}"
                )
            x_PVD = x_PVD.to(self.backbone.device)
        with clock.stage("project"):
            return self.backbone.project(x_PVD) if merged else self.backbone.project_all(x_PVD, tiles)


def pack(x_PVD: torch.Tensor, tiles: Tiles, *, merged: bool) -> bytes:
    """Features (P, V, D) of any floating dtype as a payload; values beyond half precision's range are clipped to it."""
    limit = float(np.finfo(np.float16).max)
    body = x_PVD.float().clamp(-limit, limit).cpu().numpy().astype("<f2").tobytes()
    n_patches, n_features, dim = x_PVD.shape
    return _HEADER.pack(_MAGIC, _MERGED * merged, *tiles.grid, n_patches, n_features, dim, *tiles.image_size) + body


def unpack(body: bytes) -> tuple[torch.Tensor, Tiles, bool]:
    """The features (P, V, D) in float32, what is known of the picture, and whether they are merged.

    Raises BitstreamError for bytes that :func:`pack` did not make.
    """
    if len(body) < _HEADER.size:
        raise BitstreamError(f"a payload of {len(body)} bytes is shorter than the {_HEADER.size} of its header")
    magic, flags, n_h, n_w, n_patches, n_features, dim, height, width = _HEADER.unpack_from(body)
    if magic != _MAGIC or flags not in (0, _MERGED):
        raise BitstreamError(f"a payload begins with {body[:5]!r}; features begin with {_MAGIC!r} and 0 or 1")
    wanted = _HEADER.size + 2 * n_patches * n_features * dim
    if len(body) != wanted:
        raise BitstreamError(f"a payload of {len(body)} bytes announces features of {wanted} bytes in its header")
    if min(n_h, n_w, n_features, dim, height, width) < 1 or n_patches not in (1, n_h * n_w + 1):
        raise BitstreamError(
            f"a payload announces {n_patches} patches of a {n_h} x {n_w} grid; the grid and its thumbnail are wanted"
        )
    x_PVD = np.frombuffer(body, "<f2", offset=_HEADER.size).astype(np.float32).reshape(n_patches, n_features, dim)
    if not np.isfinite(x_PVD).all():
        raise BitstreamError("a payload holds features that are infinite or undefined")
    tiles = Tiles(pixels_PCHW=torch.empty(0), grid=(n_h, n_w), image_size=(height, width))
    return torch.from_numpy(x_PVD), tiles, bool(flags)
