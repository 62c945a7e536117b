"""Split inference without compression: visual features cross the link as half-precision numbers.

    P patches   V features a patch (C where they are merged)   D feature dimension

The payload is a header and the features, all little-endian::

    magic "RAWF" | flags u8 (1: merged) | n_h u8 | n_w u8 | P u8 | features a patch u16 | D u16 | height u32 | width u32
    P x V x D float16, in the order of the array
"""

import dataclasses
import struct
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from harness.data.sample import Sample
from harness.errors import BitstreamError, FeaturesError
from harness.models.contract import Features, LanguageSide, Layout, Untimed, VisionSide
from harness.schemes.contract import (
    Clock,
    DeviceHalf,
    MergingPoint,
    Models,
    OperatingPoint,
    Payload,
    ServerHalf,
)
from harness.schemes.steps import TokenServer, merged

if TYPE_CHECKING:
    from torch import Tensor

_HEADER = struct.Struct("<4s4B2H2I")
_MAGIC = b"RAWF"
_MOST = (2**8 - 1, 2**16 - 1, 2**16 - 1)
_MERGED = 1


class RawFeaturesPoint(MergingPoint):
    """How many of a patch's features the device keeps and sends; all of them by default."""


class RawFeatures:
    """The device runs the vision tower, and merges if the point says so; nothing is quantised beyond half precision."""

    kind: ClassVar[str] = "features"
    Point: ClassVar[type[OperatingPoint]] = RawFeaturesPoint

    @classmethod
    def device_half(cls, models: Models, point: RawFeaturesPoint) -> DeviceHalf:
        """The vision tower."""
        return _Device(models.vision(), point)

    @classmethod
    def server_half(cls, models: Models, point: RawFeaturesPoint) -> ServerHalf:  # noqa: ARG003
        """The projector and the language model."""
        return _Server(models.language())


@dataclasses.dataclass(frozen=True)
class _Device:
    vision: VisionSide
    point: RawFeaturesPoint

    def __call__(self, sample: Sample, clock: Clock) -> Payload:
        """Encodes the pictures into features and packs those."""
        bodies = []
        for image in sample.images():
            seen, is_merged = merged(self.vision, image, self.point, clock)
            with clock.stage("encode"):
                # Clipped, an infinite value would be one like any other; looked at only where nothing is timed.
                if isinstance(clock, Untimed) and not bool(seen.x_PVD.isfinite().all()):
                    raise FeaturesError("the features hold infinite or undefined values")
                bodies.append(pack(seen, merged=is_merged))
        return Payload(RawFeatures.kind, tuple(bodies))


@dataclasses.dataclass(frozen=True)
class _Server(TokenServer):
    language: LanguageSide

    def tokens(self, payload: Payload, clock: Clock) -> "list[Tensor]":
        """Those of the features in each body."""
        return [self._tokens(body, clock) for body in payload.bodies]

    def _tokens(self, body: bytes, clock: Clock) -> "Tensor":
        with clock.stage("decode"):
            sent, is_merged = unpack(body)
            if sent.x_PVD.shape[2] != self.language.feature_dim:
                raise BitstreamError(
                    f"the payload's features have {sent.x_PVD.shape[2]} dimensions; "
                    f"{self.language.name} has {self.language.feature_dim}"
                )
            x_PVD = sent.x_PVD.to(self.language.device)
        with clock.stage("project"):
            return self.language.project(x_PVD) if is_merged else self.language.project_all(x_PVD, sent.layout)


def pack(seen: Features, *, merged: bool) -> bytes:
    """Features (P, V, D) of any floating dtype as a payload; values beyond half precision's range are clipped to it.

    Raises FeaturesError for more patches, features or dimensions than the header has room for.
    """
    if any(size > most for size, most in zip(seen.x_PVD.shape, _MOST, strict=True)):
        raise FeaturesError(
            "features of {} patches, {} a patch, in {} dimensions cannot be sent; at most {}, {} and {} can".format(
                *seen.x_PVD.shape, *_MOST
            )
        )
    limit = float(np.finfo(np.float16).max)
    body = seen.x_PVD.float().clamp(-limit, limit).cpu().numpy().astype("<f2").tobytes()
    layout = seen.layout
    return _HEADER.pack(_MAGIC, _MERGED * merged, *layout.grid, *seen.x_PVD.shape, *layout.image_size) + body


def unpack(body: bytes) -> tuple[Features, bool]:
    """The features (P, V, D) in float32 with their layout, and whether they are merged.

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
            f"a payload announces {n_patches} patches of a {n_h} x {n_w} grid; the grid and its thumbnail are expected"
        )
    x_PVD = np.frombuffer(body, "<f2", offset=_HEADER.size).astype(np.float32).reshape(n_patches, n_features, dim)
    if not np.isfinite(x_PVD).all():
        raise BitstreamError("a payload holds features that are infinite or undefined")
    import torch

    return Features(torch.from_numpy(x_PVD), Layout((n_h, n_w), (height, width))), bool(flags)
