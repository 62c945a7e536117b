"""The TOFC bitstream: a header, one block of asymmetric numeral systems, a checksum.

    N merged features   Z channels of z   D dimension   E entropy models   A symbols of a table

    offset  bytes
    0       2      b"TF"
    2       1      version
    3       4      model: the first bytes of the checkpoint's hash
    7       1+1    n_h, n_w: patches of the image; there is one more, the thumbnail. 0, 0 is a single patch
    9       2      n_c: merged features of a patch, little-endian
    11      S      side information of the codec's own, as many bytes as its model says; TOFC's has none
    11+S    ...    the coder's 32-bit words, little-endian, without the zero bytes at the end
    -4      4      CRC-32 of all before

The coder's symbols, in decoding order: the model of each feature; z, feature by feature; y, level by level of its scale
and in the order of the features within a level; the magnitudes of y that escaped. A model ships integer counts that sum
to 2**24; symbol i of a table of n, with C the counts before it, has the share of 2**24 that begins at
floor(C (2**24 - n) / 2**24) + i. Every choice of a table is made in integer arithmetic, so a stream decodes anywhere. A
codec without a hyperprior has Z = 0, and one without selection a single model: neither costs a bit.

docs/bitstream.md says all that a decoder needs.
"""

import dataclasses
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from harness.errors import BitstreamError, FeaturesError
from harness.tofc import level_order, rans
from harness.tofc.factorized import LIMIT
from harness.tofc.level_order import Ints, Levels
from harness.tofc.rans import Decoder, Encoder

MAGIC, VERSION = b"TF", 1
MODEL_BYTES = 4
MAX_FEATURES = 1 << 12
"""The most features of a stream, by the format; a decoder's own limit is its :class:`Limits`."""

_HEADER = struct.Struct(f"<2sB{MODEL_BYTES}sBBH")
_CHECKSUM_BYTES = 4
_LENGTH_BITS, _SPLIT_BITS = 5, 15
"""An escaped magnitude is its bit length and two parts of at most 15 bits: the coder holds 24 bits at a time."""

SYMBOL_LIMIT = (1 << 30) - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """The most patches n_p, the thumbnail included, and the most features n_c of each that a decoder expects.

    A stream that claims more than their product is refused before anything is computed. Its length does not bound that:
    the coder starts empty, so the lowest symbols of all tables cost nothing, and a stream without a single word may
    hold MAX_FEATURES features. Where the picture is known, its own n_p and n_c are the best limits.
    """

    max_patches: int
    max_clusters: int

    def __post_init__(self) -> None:
        if self.max_patches < 1 or self.max_clusters < 1:
            raise ValueError(f"{self.max_clusters} features for each of {self.max_patches} patches limit nothing")

    @classmethod
    def of_pixels(cls, max_pixels: int = 16_000_000, patch_px: int = 384, max_clusters: int = 16) -> "Limits":
        """Limits for pictures of up to ``max_pixels``, no longer than four times as wide, cut into patches of side p.

        With w h <= M and a ratio of at most 4, ceil(w/p) ceil(h/p) <= (w/p + 1) (h/p + 1) <= M/p^2 + 5/2 sqrt(M)/p + 1.
        The paper's n_c is 16.
        """
        return cls(int(max_pixels / patch_px**2 + 2.5 * max_pixels**0.5 / patch_px + 1) + 1, max_clusters)

    @property
    def max_features(self) -> int:
        """Of a stream: the product, and never more than the format's own limit."""
        return min(self.max_patches * self.max_clusters, MAX_FEATURES)


LIMITS = Limits.of_pixels()
"""The limits of a decoder that does not know the pictures: up to 16 megapixels, 136 patches of 16 features."""


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """A stream's header: the model that wrote it, the image's grid (n_h, n_w), features a patch."""

    model: bytes
    grid: tuple[int, int]
    n_clusters: int

    @property
    def n_patches(self) -> int:
        """n_p = n_h n_w + 1."""
        return self.grid[0] * self.grid[1] + 1

    @property
    def n_features(self) -> int:
        """All merged features of the image."""
        return self.n_patches * self.n_clusters


@dataclasses.dataclass(frozen=True, slots=True)
class Symbols:
    """The integers that stand for an image: the model of each feature, z and y; and the codec's own side bytes."""

    expert_N: Ints
    z_NZ: Ints
    y_ND: Ints
    side: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """Where the bits of a stream went; the header's include side bytes, checksum and the rounding to whole bytes."""

    header_bits: int
    expert_bits: int
    z_bits: int
    y_bits: int

    @property
    def total_bits(self) -> int:
        """Eight times the stream's bytes."""
        return self.header_bits + self.expert_bits + self.z_bits + self.y_bits


class ModelTables:
    """The counts, over 2**24, that a checkpoint ships: of its entropy models, of z, and of y for each level of scale.

    ``side_bytes`` is the length of the side information that its streams hold after their header. Raises ValueError
    unless every entry is positive and every table sums to 2**24.
    """

    def __init__(self, expert_E: Ints, z_EZA: Ints, y_levels: Sequence[Ints], side_bytes: int = 0) -> None:
        self.side_bytes = side_bytes
        if len(expert_E) != len(z_EZA):
            raise ValueError(f"{len(expert_E)} entropy models have tables of z for {len(z_EZA)}")
        self.n_experts, self.n_channels = z_EZA.shape[:2]
        self.reach_L = np.array([len(table) // 2 - 1 for table in y_levels])
        # One entropy model needs no symbols.
        self.expert = rans.Tables([expert_E] if self.n_experts > 1 else [])
        self.z = rans.Tables(list(z_EZA.reshape(-1, z_EZA.shape[-1])))
        self.y = rans.Tables(y_levels)

    def z_runs(self, expert_N: Ints) -> tuple[Ints, Ints]:
        """The tables of z's runs, of one symbol each, feature by feature, and where they start."""
        table_NZ = expert_N[:, None] * self.n_channels + np.arange(self.n_channels)
        return table_NZ.ravel(), np.arange(table_NZ.size + 1)


@dataclasses.dataclass(frozen=True, slots=True)
class SideInformation:
    """A stream read as far as y: what is needed to find the scales of y, and the decoder that continues from there."""

    header: Header
    side: bytes
    expert_N: Ints
    z_NZ: Ints
    decoder: Decoder
    bits: tuple[int, int, int]
    """The bits of the header and what belongs to it, of the entropy models' indices, and of z."""


def write(header: Header, tables: ModelTables, symbols: Symbols, level_ND: Levels) -> bytes:
    """The stream of these symbols, y under the tables of ``level_ND``.

    Raises FeaturesError for more than MAX_FEATURES features or a |y| above SYMBOL_LIMIT.
    """
    n_h, n_w = header.grid
    if max(n_h, n_w) > 255 or header.n_features > MAX_FEATURES or min(n_h, n_w) < 0 or header.n_clusters < 1:
        raise FeaturesError(
            f"{header.n_clusters} features for each patch of a {n_h} x {n_w} grid cannot be coded; a stream holds at "
            f"most {MAX_FEATURES} in all, of at most 255 x 255 patches"
        )
    encoder = Encoder()
    level_M, y_M = level_ND.ravel(), symbols.y_ND.ravel()
    index_M, start_L, escaped = level_order.to_runs(y_M, level_M, tables.reach_L)
    # A stack: what is decoded first is pushed last.
    if len(escaped):
        _push_escapes(encoder, y_M[escaped], tables.reach_L[level_M[escaped]])
    encoder.push(tables.y, index_M, np.arange(len(tables.reach_L)), start_L)
    encoder.push(tables.z, (symbols.z_NZ + LIMIT).ravel().astype(np.int32), *tables.z_runs(symbols.expert_N))
    if tables.n_experts > 1:
        encoder.push(tables.expert, symbols.expert_N.astype(np.int32), *_one_run(header.n_features))
    head = _HEADER.pack(MAGIC, VERSION, header.model, n_h, n_w, header.n_clusters)
    body = head + symbols.side + encoder.to_bytes()
    return body + zlib.crc32(body).to_bytes(_CHECKSUM_BYTES, "little")


def read_header(stream: bytes) -> Header:
    """The header of an undamaged stream; raises BitstreamError for any other bytes."""
    shortest = _HEADER.size + _CHECKSUM_BYTES
    if len(stream) < shortest:
        raise BitstreamError(f"a TOFC stream has at least {shortest} bytes, not {len(stream)}")
    magic, version, model, n_h, n_w, n_clusters = _HEADER.unpack_from(stream)
    if magic != MAGIC:
        raise BitstreamError(f"a TOFC stream begins with {MAGIC!r}, not with {magic!r}")
    if version != VERSION:
        raise BitstreamError(f"the stream has version {version}; this decoder reads version {VERSION}")
    body, checksum = stream[:-_CHECKSUM_BYTES], int.from_bytes(stream[-_CHECKSUM_BYTES:], "little")
    if zlib.crc32(body) != checksum:
        raise BitstreamError(f"the stream's {len(stream)} bytes do not match their checksum: damaged on the way")
    header = Header(model, (n_h, n_w), n_clusters)
    if n_clusters == 0 or header.n_features > MAX_FEATURES:
        raise BitstreamError(
            f"the stream claims {n_clusters} features for each of {header.n_patches} patches; 1 to {MAX_FEATURES} "
            "features in all are possible"
        )
    return header


def read_side_information(
    stream: bytes, model: bytes, tables: ModelTables, limits: Limits | None = LIMITS
) -> SideInformation:
    """The header, the indices and z of a stream that ``model`` wrote; without ``limits``, only the format's own holds.

    Raises BitstreamError for a stream that is damaged, of another model, or beyond the limits.
    """
    header = read_header(stream)
    if header.model != model:
        raise BitstreamError(f"the stream was written by model {header.model.hex()}, this decoder is {model.hex()}")
    if limits is not None and (header.n_patches > limits.max_patches or header.n_features > limits.max_features):
        raise BitstreamError(
            f"the stream claims {header.n_clusters} features for each of {header.n_patches} patches, "
            f"{header.n_features} in all; this decoder takes up to {limits.max_patches} patches and "
            f"{limits.max_features} features in all"
        )
    start = _HEADER.size + tables.side_bytes
    if len(stream) < start + _CHECKSUM_BYTES:
        raise BitstreamError(f"a stream of {len(stream)} bytes ends before its {tables.side_bytes} bytes of statistics")
    body = stream[start:-_CHECKSUM_BYTES]
    if body.endswith(b"\0"):
        raise BitstreamError("the stream ends in zeros that its coder does not write")
    decoder = Decoder(body)
    left = [decoder.bits_left]
    expert_N = np.zeros(header.n_features, np.int64)
    if tables.n_experts > 1:
        expert_N += decoder.pop(tables.expert, *_one_run(header.n_features))
    left.append(decoder.bits_left)
    z_NZ = np.full((header.n_features, tables.n_channels), -LIMIT, np.int64)
    z_NZ += decoder.pop(tables.z, *tables.z_runs(expert_N)).reshape(z_NZ.shape)
    left.append(decoder.bits_left)
    bits = (8 * len(stream) - left[0], left[0] - left[1], left[1] - left[2])
    return SideInformation(header, stream[_HEADER.size : start], expert_N, z_NZ, decoder, bits)


def read_y(side: SideInformation, tables: ModelTables, level_ND: Levels) -> tuple[Ints, Budget]:
    """The symbols of y (N, D), under the tables of ``level_ND``, and where the stream's bits went.

    To be called once: it uses up the decoder. Raises BitstreamError for a stream longer than its symbols.
    """
    y_bits = side.decoder.bits_left
    level_M = level_ND.ravel()
    start_L = level_order.starts(level_M, len(tables.reach_L))
    index_M = side.decoder.pop(tables.y, np.arange(len(tables.reach_L)), start_L)
    y_M, escaped = level_order.from_runs(index_M, level_M, tables.reach_L, start_L)
    if len(escaped):
        y_M[escaped] = _pop_escapes(side.decoder, tables.reach_L[level_M[escaped]])
    if not side.decoder.is_empty:
        raise BitstreamError("the stream continues after its last symbol")
    return y_M.reshape(level_ND.shape), Budget(*side.bits, y_bits)


def _one_run(n_symbols: int) -> tuple[Ints, Ints]:
    return np.zeros(1, np.int64), np.array([0, n_symbols])


def _push_escapes(encoder: Encoder, y: Ints, reach: Ints) -> None:
    """Push escaped symbols: sign, then bit length and bits of the excess over the reach (Elias gamma, split in two)."""
    excess = np.abs(y) - reach
    if np.abs(y).max() > SYMBOL_LIMIT:
        raise FeaturesError(f"a symbol of magnitude {np.abs(y).max()} is out of the range that a stream can hold")
    length = np.frexp(excess.astype(np.float64))[1].astype(np.int64)
    low_bits, high_bits = _split(length)
    encoder.push_bits(excess >> _SPLIT_BITS & (1 << high_bits) - 1, high_bits)
    encoder.push_bits(excess & (1 << low_bits) - 1, low_bits)
    encoder.push_bits(length, np.full_like(length, _LENGTH_BITS))
    encoder.push_bits((y < 0).astype(np.int64), np.ones_like(length))


def _split(length: Ints) -> tuple[Ints, Ints]:
    """How many of the bits below the leading one are in the low part, and in the high part."""
    return np.clip(length - 1, 0, _SPLIT_BITS), np.clip(length - 1 - _SPLIT_BITS, 0, _SPLIT_BITS)


def _pop_escapes(decoder: Decoder, reach: Ints) -> Ints:
    negative = decoder.pop_bits(np.ones_like(reach))
    length = decoder.pop_bits(np.full_like(reach, _LENGTH_BITS))
    if length.min() < 1 or length.max() > 2 * _SPLIT_BITS + 1:
        raise BitstreamError("an escaped symbol has no possible length")
    low_bits, high_bits = _split(length)
    excess = (np.int64(1) << (length - 1)) + decoder.pop_bits(low_bits)
    excess += decoder.pop_bits(high_bits) << _SPLIT_BITS
    magnitude = excess + reach
    if magnitude.max() > SYMBOL_LIMIT:
        raise BitstreamError("an escaped symbol is out of range")
    return np.where(negative == 1, -magnitude, magnitude)
