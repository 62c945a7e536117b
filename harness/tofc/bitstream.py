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
and in the order of the features within a level; the magnitudes of y that escaped. Every probability is an integer over
2**24 that the model ships, and every choice of a table is made in integer arithmetic, so a stream decodes anywhere. A
codec without a hyperprior has Z = 0, and one without selection a single model: neither costs a bit.
"""

import dataclasses
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from harness.errors import BitstreamError
from harness.tofc import level_order
from harness.tofc.factorized import LIMIT
from harness.tofc.laplacian import TABLE_TOTAL
from harness.tofc.level_order import Ints, Levels

MAGIC, VERSION = b"TF", 1
MODEL_BYTES = 4
MAX_FEATURES = 1 << 12
"""More merged features than any image has: bounds what a header can make a decoder allocate and compute.

Nothing else could: the coder begins with nothing, so the lowest symbols of all tables leave nothing, and a stream
without a single word may hold as many features as this.
"""

_HEADER = struct.Struct(f"<2sB{MODEL_BYTES}sBBH")
_CHECKSUM_BYTES = 4
_SPLIT_BITS = 15
"""An escaped magnitude is its bit length and two parts of at most 15 bits: the coder's uniform ends at 2**24."""

SYMBOL_LIMIT = (1 << 30) - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a stream says of itself: the model that wrote it, the image's grid (n_h, n_w), features a patch."""

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


class Tables:
    """The integer frequencies, over 2**24, that a model ships: of its experts, of z, and of y for each level of scale.

    ``side_bytes`` is the length of the side information that its streams hold after their header. Raises ValueError
    unless every entry is positive and every table sums to 2**24.
    """

    def __init__(self, expert_E: Ints, z_EZA: Ints, y_levels: Sequence[Ints], side_bytes: int = 0) -> None:
        for table in (expert_E, z_EZA, *y_levels):
            if (table < 1).any() or not (table.sum(-1) == TABLE_TOTAL).all():
                raise ValueError("a frequency table has an entry below 1 or does not sum to 2**24")
        self.side_bytes = side_bytes
        self.n_experts = len(expert_E)
        self.n_channels = z_EZA.shape[1]
        self.reach_L = np.array([len(table) // 2 - 1 for table in y_levels])
        family = constriction.stream.model.Categorical
        # One expert needs no symbols; a coder has no model of a sure thing.
        self.expert = family(expert_E / TABLE_TOTAL, perfect=False) if self.n_experts > 1 else None
        self.z_each = family(perfect=False)
        self.z_EZA = z_EZA / TABLE_TOTAL
        self.y = [family(table / TABLE_TOTAL, perfect=False) for table in y_levels]


@dataclasses.dataclass(frozen=True, slots=True)
class SideInformation:
    """A stream read as far as y: what is needed to find the scales of y, and the coder that goes on from there."""

    header: Header
    side: bytes
    expert_N: Ints
    z_NZ: Ints
    coder: Any
    bits: tuple[int, int, int]
    """Of the header and its like, of the experts, of z."""


def write(header: Header, tables: Tables, symbols: Symbols, level_ND: Levels) -> bytes:
    """The stream of these symbols, y under the tables of ``level_ND``.

    Raises ValueError for more than MAX_FEATURES features or a |y| above SYMBOL_LIMIT.
    """
    n_h, n_w = header.grid
    if max(n_h, n_w) > 255 or header.n_features > MAX_FEATURES or min(n_h, n_w) < 0 or header.n_clusters < 1:
        raise ValueError(f"{header.n_clusters} features for each patch of a {n_h} x {n_w} grid cannot be coded")
    coder = constriction.stream.stack.AnsCoder()
    level_M, y_M = level_ND.ravel(), symbols.y_ND.ravel()
    index_M, start_L, escaped = level_order.to_runs(y_M, level_M, tables.reach_L)
    if len(escaped):
        _push_escapes(coder, y_M[escaped], tables.reach_L[level_M[escaped]])
    # A stack: what is decoded first is pushed last.
    for level in np.flatnonzero(np.diff(start_L))[::-1]:
        coder.encode_reverse(index_M[start_L[level] : start_L[level + 1]], tables.y[level])
    if tables.n_channels:
        z_tables = tables.z_EZA[symbols.expert_N].reshape(-1, tables.z_EZA.shape[-1])
        coder.encode_reverse((symbols.z_NZ + LIMIT).ravel().astype(np.int32), tables.z_each, z_tables)
    if tables.expert is not None:
        coder.encode_reverse(symbols.expert_N.astype(np.int32), tables.expert)
    head = _HEADER.pack(MAGIC, VERSION, header.model, n_h, n_w, header.n_clusters)
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    body = head + symbols.side + words.rstrip(b"\0")
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


def read_side_information(stream: bytes, model: bytes, tables: Tables) -> SideInformation:
    """The header, experts and z of a stream that ``model`` wrote.

    Raises BitstreamError for a stream that is damaged or of another model.
    """
    header = read_header(stream)
    if header.model != model:
        raise BitstreamError(f"the stream was written by model {header.model.hex()}, this decoder is {model.hex()}")
    start = _HEADER.size + tables.side_bytes
    if len(stream) < start + _CHECKSUM_BYTES:
        raise BitstreamError(f"a stream of {len(stream)} bytes ends before its {tables.side_bytes} bytes of statistics")
    coder = _open(stream[start:-_CHECKSUM_BYTES])
    n_features = header.n_features
    left = [coder.num_valid_bits()]
    if tables.expert is None:
        expert_N = np.zeros(n_features, np.int64)
    else:
        expert_N = coder.decode(tables.expert, n_features).astype(np.int64)
    left.append(coder.num_valid_bits())
    z_NZ = np.zeros((n_features, tables.n_channels), np.int64)
    if tables.n_channels:
        z_tables = tables.z_EZA[expert_N].reshape(-1, tables.z_EZA.shape[-1])
        z_NZ += coder.decode(tables.z_each, z_tables).reshape(z_NZ.shape) - LIMIT
    left.append(coder.num_valid_bits())
    bits = (8 * len(stream) - left[0], left[0] - left[1], left[1] - left[2])
    return SideInformation(header, stream[_HEADER.size : start], expert_N, z_NZ, coder, bits)


def read_y(side: SideInformation, tables: Tables, level_ND: Levels) -> tuple[Ints, Budget]:
    """The symbols of y (N, D), under the tables of ``level_ND``, and where the stream's bits went.

    Once only: it uses up the coder. Raises BitstreamError for a stream longer than its symbols.
    """
    y_bits = side.coder.num_valid_bits()
    level_M = level_ND.ravel()
    start_L = level_order.starts(level_M, len(tables.y))
    index_M = np.empty(level_M.size, np.int32)
    for level in np.flatnonzero(np.diff(start_L)):
        start, end = start_L[level], start_L[level + 1]
        index_M[start:end] = side.coder.decode(tables.y[level], int(end - start))
    y_M, escaped = level_order.from_runs(index_M, level_M, tables.reach_L)
    if len(escaped):
        y_M[escaped] = _pop_escapes(side.coder, tables.reach_L[level_M[escaped]])
    if not side.coder.is_empty():
        raise BitstreamError("the stream goes on after its last symbol")
    return y_M.reshape(level_ND.shape), Budget(*side.bits, y_bits)


def _open(body: bytes) -> Any:
    if body.endswith(b"\0"):
        raise BitstreamError("the stream ends in zeros that its coder does not write")
    words = np.frombuffer(body + bytes(-len(body) % 4), "<u4").astype(np.uint32)
    return constriction.stream.stack.AnsCoder(words)


def _push_escapes(coder: Any, y: Ints, reach: Ints) -> None:
    """Push escaped symbols: sign, then bit length and bits of the excess over the reach (Elias gamma, split in two)."""
    excess = np.abs(y) - reach
    if np.abs(y).max() > SYMBOL_LIMIT:
        raise ValueError(f"a symbol of magnitude {np.abs(y).max()} is out of the range that a stream can hold")
    length = np.frexp(excess.astype(np.float64))[1].astype(np.int32)
    uniform = constriction.stream.model.Uniform
    for bits, part in reversed(_split(length, excess)):
        some = bits > 0
        if some.any():
            coder.encode_reverse(part[some].astype(np.int32), uniform(), (1 << bits[some]).astype(np.int32))
    coder.encode_reverse(length, uniform(32))
    coder.encode_reverse((y < 0).astype(np.int32), uniform(2))


def _split(length: NDArray[np.int32], excess: Ints) -> list[tuple[NDArray[np.int32], Ints]]:
    """The bits below the leading one as a low and a high part: (how many bits, their value) of each."""
    low_bits = np.clip(length - 1, 0, _SPLIT_BITS)
    high_bits = np.clip(length - 1 - _SPLIT_BITS, 0, _SPLIT_BITS)
    low = excess & ((1 << low_bits.astype(np.int64)) - 1)
    high = (excess >> _SPLIT_BITS) & ((1 << high_bits.astype(np.int64)) - 1)
    return [(low_bits, low), (high_bits, high)]


def _pop_escapes(coder: Any, reach: Ints) -> Ints:
    uniform = constriction.stream.model.Uniform
    negative = coder.decode(uniform(2), len(reach))
    length = coder.decode(uniform(32), len(reach))
    if length.min() < 1 or length.max() > 2 * _SPLIT_BITS + 1:
        raise BitstreamError("an escaped symbol has no possible length")
    excess = np.int64(1) << (length.astype(np.int64) - 1)
    offset = 0
    for bits, _ in _split(length, np.zeros(len(reach), np.int64)):
        some = bits > 0
        if some.any():
            part = coder.decode(uniform(), (1 << bits[some]).astype(np.int32)).astype(np.int64)
            excess[some] += part << offset
        offset = _SPLIT_BITS
    magnitude = excess + reach
    if magnitude.max() > SYMBOL_LIMIT:
        raise BitstreamError("an escaped symbol is out of range")
    return np.where(negative == 1, -magnitude, magnitude)
