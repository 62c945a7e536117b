"""The halves of every scheme that sends coded features: TOFC's and those of its ablations.

P patches   C features a patch that are kept   D feature dimension
"""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from harness.data.sample import Sample
from harness.files import Stamp, stamp
from harness.models.contract import LanguageSide, Models, VisionSide
from harness.schemes.contract import Clock, Payload, ReducedPoint
from harness.schemes.steps import TokenServer, reduced
from harness.tofc.bitstream import Limits
from harness.tofc.feature_codec import Decoded, FeatureCodec
from harness.tofc.merging import Reducer

if TYPE_CHECKING:
    from torch import Tensor

Codec = TypeVar("Codec", bound=FeatureCodec)


class FeatureStreams(Protocol):
    """What converts one picture's features to a stream and back: a codec, or a stand-in for one."""

    def compress(self, y_PCD: "Tensor", grid: tuple[int, int] | None = None) -> bytes:
        """The stream of one picture's features; see :class:`FeatureCodec`."""
        ...

    def decompress(self, stream: bytes, limits: Limits | None = ...) -> Decoded:
        """The features of a stream; raises BitstreamError for anything else, or beyond the limits."""
        ...


def limits_of(models: Models, language: LanguageSide, point: ReducedPoint) -> Limits:
    """The limits of a stream: the patches of the largest picture that the server accepts, after this reduction."""
    n_features = language.n_features
    return Limits(language.max_patches(models.max_pixels), point.kept_of(n_features) or n_features)


def load_codec(codec: type[Codec], path: Path, device: str) -> Codec:
    """A codec's checkpoint; read once for both halves and all points of a process, as long as the file is the same."""
    return _loaded(codec, path, device, stamp(path))  # type: ignore[return-value]


@functools.lru_cache(maxsize=64)
def _loaded(codec: type[FeatureCodec], path: Path, device: str, facts: Stamp) -> FeatureCodec:  # noqa: ARG001
    return codec.load(path, device)


@dataclasses.dataclass(frozen=True)
class FeatureDevice:
    """Pixels to streams: the vision tower, the reducer and the codec.

    ``checked`` says that the codec's streams carry a checksum of their own.
    """

    kind: str
    vision: VisionSide
    reducer: Reducer
    codec: FeatureStreams
    point: ReducedPoint
    checked: bool = True

    def __call__(self, sample: Sample, clock: Clock) -> Payload:
        """A stream of each picture."""
        streams = []
        for image in sample.images():
            kept = reduced(self.vision, image, self.reducer, self.point, clock)
            with clock.stage("encode"):
                streams.append(self.codec.compress(kept.x_PVD, kept.layout.grid))
        return Payload(self.kind, tuple(streams), checked=self.checked)


@dataclasses.dataclass(frozen=True)
class FeatureServer(TokenServer):
    """Streams to answers: the codec, the projector and the language model; ``limits`` bound what a stream may claim."""

    language: LanguageSide
    codec: FeatureStreams
    limits: Limits

    def tokens(self, payload: Payload, clock: Clock) -> "list[Tensor]":
        """Raises BitstreamError for anything but streams of this codec."""
        tokens = []
        for body in payload.bodies:
            with clock.stage("decode"):
                y_PCD = self.codec.decompress(body, self.limits).y_PCD
            with clock.stage("project"):
                tokens.append(self.language.project(y_PCD))
        return tokens
