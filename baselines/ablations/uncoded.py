"""Features that cross the link as half-precision numbers: Table I compares what is kept, not its coding.

    P patches   C features a patch that are kept   N = P C   D dimension

A stream is the payload of raw features (:mod:`baselines.raw_features`), merged; the envelope has its checksum.
"""

import torch
from torch import Tensor, nn

from baselines.raw_features import pack, unpack
from harness.errors import BitstreamError, FeaturesError
from harness.models.contract import Features, Layout
from harness.tofc.bitstream import LIMITS, Budget, Limits
from harness.tofc.feature_codec import Coded, Decoded


class HalfPrecision(nn.Module):
    """In place of a codec: nothing is quantised in training, and no bits are counted."""

    def scale_parameters(self) -> list[nn.Parameter]:
        """None."""
        return []

    def forward(self, y_PCD: Tensor, temperature: float) -> Coded:  # noqa: ARG002
        """The features, unchanged."""
        n_features = y_PCD.shape[0] * y_PCD.shape[1]
        return Coded(y_PCD, y_PCD.new_zeros(n_features), y_PCD.new_ones(n_features, 1))

    def compress(self, y_PCD: Tensor, grid: tuple[int, int] | None = None) -> bytes:
        """The stream of one image's features; raises FeaturesError for features that are not finite."""
        if not torch.isfinite(y_PCD).all():
            raise FeaturesError("the features hold infinite or undefined values")
        return pack(Features(y_PCD, Layout(grid or (1, max(1, len(y_PCD) - 1)), (1, 1))), merged=True)

    def decompress(self, stream: bytes, limits: Limits | None = LIMITS) -> Decoded:
        """The features of a stream, float32; raises BitstreamError for anything else, or beyond the limits."""
        sent, merged = unpack(stream)
        n_patches, n_clusters, _ = sent.x_PVD.shape
        if not merged:
            raise BitstreamError("a payload holds features that are not merged")
        if limits is not None and (n_patches > limits.max_patches or n_clusters > limits.max_clusters):
            raise BitstreamError(
                f"a payload holds {n_patches} patches of {n_clusters} features; at most {limits.max_patches} of "
                f"{limits.max_clusters} are expected"
            )
        y_bits = 16 * sent.x_PVD.numel()
        chosen_PC = torch.zeros(n_patches, n_clusters, dtype=torch.int64)
        return Decoded(sent.x_PVD, chosen_PC, sent.layout.grid, Budget(8 * len(stream) - y_bits, 0, 0, y_bits))
