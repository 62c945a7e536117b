"""The bitstream: lossless for any symbols, close to the entropy, and an error for anything damaged."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BitstreamError, FeaturesError
from harness.tofc import bitstream, laplacian
from harness.tofc.bitstream import Header, Limits, ModelTables, Symbols
from harness.tofc.factorized import LIMIT
from harness.tofc.level_order import Levels

MODEL = b"\x01\x02\x03\x04"
N_EXPERTS, N_CHANNELS, DIM = 4, 2, 32


def make_tables(n_experts: int = N_EXPERTS) -> ModelTables:
    """Tables of a plausible model: skewed experts, bell-shaped z, the Laplacian's y."""
    bell = np.exp(-np.abs(np.arange(-LIMIT, LIMIT + 1)) / 3.0)
    return ModelTables(
        laplacian.frequencies(np.arange(1.0, n_experts + 1)),
        laplacian.frequencies(np.broadcast_to(bell, (n_experts, N_CHANNELS, 2 * LIMIT + 1)).copy()),
        [laplacian.table(level) for level in range(laplacian.LEVELS)],
    )


TABLES = make_tables()


def read(stream: bytes, level_ND: Levels, tables: ModelTables = TABLES) -> tuple[Header, Symbols]:
    """Decode with known levels."""
    side = bitstream.read_side_information(stream, MODEL, tables, limits=None)
    y_ND, budget = bitstream.read_y(side, tables, level_ND)
    assert budget.total_bits == 8 * len(stream)
    return side.header, Symbols(side.expert_N, side.z_NZ, y_ND)


def draw(seed: int, n_features: int, wild: float = 0.0) -> tuple[Symbols, Levels]:
    """Symbols drawn from the tables' own Laplacians; a share ``wild`` of y is up to 2**30 - 1 instead."""
    rng = np.random.default_rng(seed)
    level_ND = rng.integers(0, laplacian.LEVELS, (n_features, DIM)).astype(np.uint8)
    b_ND = 2 ** (laplacian.LOG2_B_MIN + level_ND / laplacian.LEVELS_PER_OCTAVE)
    y_ND = np.rint(rng.laplace(0, b_ND)).astype(np.int64)
    far = (1 << rng.integers(0, 31, y_ND.shape)) - 1
    y_ND = np.where(rng.random(y_ND.shape) < wild, far * rng.choice([-1, 1], y_ND.shape), y_ND)
    expert_N = rng.integers(0, N_EXPERTS, n_features)
    z_NZ = rng.integers(-LIMIT, LIMIT + 1, (n_features, N_CHANNELS))
    return Symbols(expert_N, z_NZ, y_ND), level_ND


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1 << 20),
    grid=st.sampled_from([(0, 0), (1, 1), (2, 2), (59, 1), (1, 4)]),
    n_clusters=st.integers(1, 6),
    wild=st.sampled_from([0.0, 0.01, 1.0]),
)
def test_symbols_return_unchanged(seed: int, grid: tuple[int, int], n_clusters: int, wild: float) -> None:
    """From one feature to 60 patches, with none or all of y out of the tables' range, decoding is lossless."""
    header = Header(MODEL, grid, n_clusters)
    symbols, level_ND = draw(seed, header.n_features, wild)
    stream = bitstream.write(header, TABLES, symbols, level_ND)
    decoded_header, decoded = read(stream, level_ND)
    assert decoded_header == header
    assert np.array_equal(decoded.expert_N, symbols.expert_N)
    assert np.array_equal(decoded.z_NZ, symbols.z_NZ)
    assert np.array_equal(decoded.y_ND, symbols.y_ND)


def test_a_single_model_needs_no_expert_symbols() -> None:
    """With one entropy model the experts cost nothing."""
    tables = make_tables(1)
    symbols, level_ND = draw(1, 1)
    symbols = Symbols(np.zeros(1, np.int64), symbols.z_NZ, symbols.y_ND)
    stream = bitstream.write(Header(MODEL, (0, 0), 1), tables, symbols, level_ND)
    _, decoded = read(stream, level_ND, tables)
    assert np.array_equal(decoded.y_ND, symbols.y_ND)


def test_the_stream_is_as_long_as_the_information_and_twenty_bytes() -> None:
    """Header, checksum and coder add at most 20 bytes to the information in the symbols."""
    for seed, n_features in ((0, 1), (1, 5), (2, 60), (3, 400)):
        symbols, level_ND = draw(seed, n_features)
        stream = bitstream.write(Header(MODEL, (0, 0), n_features), TABLES, symbols, level_ND)
        bits = -np.log2(np.arange(1, 5)[symbols.expert_N] / 10).sum()
        bell = np.exp(-np.abs(np.arange(-LIMIT, LIMIT + 1)) / 3.0)
        bits += -np.log2(bell[symbols.z_NZ + LIMIT] / bell.sum()).sum()
        for level in range(laplacian.LEVELS):
            y = symbols.y_ND[level_ND == level]
            table, reach = laplacian.table(level), laplacian.reach(level)
            bits += -np.log2(table[y[np.abs(y) <= reach] + reach] / laplacian.TABLE_TOTAL).sum()
        assert len(stream) <= bits * 1.001 / 8 + 20


def test_every_flipped_byte_and_every_truncation_is_an_error() -> None:
    """No damage to a single byte, no cut and no appended byte goes unnoticed."""
    symbols, level_ND = draw(4, 10)
    stream = bitstream.write(Header(MODEL, (3, 3), 1), TABLES, symbols, level_ND)
    for position in range(len(stream)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(stream)
            damaged[position] ^= flip
            with pytest.raises(BitstreamError):
                read(bytes(damaged), level_ND)
        with pytest.raises(BitstreamError):
            read(stream[:position], level_ND)
    with pytest.raises(BitstreamError):
        read(stream + b"\x00", level_ND)


def with_checksum(body: bytes) -> bytes:
    """Any bytes with the checksum that fits them, as a hostile sender would make."""
    return body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(body=st.binary(max_size=60), n_h=st.integers(0, 5), n_w=st.integers(0, 5), n_clusters=st.integers(0, 9))
def test_hostile_bodies_decode_or_are_refused(body: bytes, n_h: int, n_w: int, n_clusters: int) -> None:
    """Arbitrary coder words under a valid checksum give symbols in range or a BitstreamError, nothing else."""
    stream = with_checksum(b"TF\x01" + MODEL + bytes([n_h, n_w, n_clusters, 0]) + body)
    rng = np.random.default_rng(len(body))
    level_ND = rng.integers(0, laplacian.LEVELS, ((n_h * n_w + 1) * n_clusters, DIM)).astype(np.uint8)
    try:
        _, symbols = read(stream, level_ND)
    except BitstreamError:
        return
    assert np.abs(symbols.z_NZ).max() <= LIMIT
    assert np.abs(symbols.y_ND).max() <= bitstream.SYMBOL_LIMIT
    assert symbols.expert_N.max() < N_EXPERTS


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (b"JF\x01" + MODEL + b"\x00\x00\x01\x00", "begins with"),
        (b"TF\x02" + MODEL + b"\x00\x00\x01\x00", "version 2"),
        (b"TF\x01" + b"\xff\xff\xff\xff" + b"\x00\x00\x01\x00", "written by model ffffffff"),
        (b"TF\x01" + MODEL + b"\x00\x00\x00\x00", "claims 0 features"),
        (b"TF\x01" + MODEL + b"\xff\xff\xff\xff", "claims 65535 features for each of 65026 patches"),
        (b"TF\x01" + MODEL + b"\x00\x00\x01\x00" + b"\x07\x00", "ends in zeros"),
        (b"", "at least 15 bytes"),
    ],
)
def test_each_wrong_header_has_its_sentence(head: bytes, sentence: str) -> None:
    """Wrong magic, version, model, size or padding is named before anything is allocated or decoded."""
    with pytest.raises(BitstreamError, match=sentence):
        read(with_checksum(head), np.zeros((1, DIM), np.uint8))


def test_a_stream_longer_than_its_symbols_is_an_error() -> None:
    """Words that no symbol accounts for are not ignored."""
    symbols, level_ND = draw(5, 2)
    stream = bitstream.write(Header(MODEL, (0, 0), 2), TABLES, symbols, level_ND)
    padded = -len(stream[11:-4]) % 4
    with pytest.raises(BitstreamError, match="after its last symbol"):
        read(with_checksum(stream[:-4] + bytes(padded) + b"\x01\x02\x03\x04"), level_ND)


def test_a_streams_length_does_not_bound_its_features() -> None:
    """Symbols at the foot of their tables cost nothing: 4096 features in no word, which no decoder may refuse."""
    n = bitstream.MAX_FEATURES
    level_ND = np.random.default_rng(7).integers(0, laplacian.LEVELS, (n, DIM)).astype(np.uint8)
    symbols = Symbols(np.zeros(n, np.int64), np.full((n, N_CHANNELS), -LIMIT), -TABLES.reach_L[level_ND])
    stream = bitstream.write(Header(MODEL, (0, 0), n), TABLES, symbols, level_ND)
    assert len(stream) == 15
    assert np.array_equal(read(stream, level_ND)[1].y_ND, symbols.y_ND)


@pytest.mark.parametrize(("grid", "n_clusters"), [((256, 1), 1), ((91, 91), 1), ((0, 0), 0), ((-1, 1), 1)])
def test_images_that_no_header_can_hold_are_refused(grid: tuple[int, int], n_clusters: int) -> None:
    """The encoder refuses what the decoder would refuse."""
    symbols, level_ND = draw(6, 1)
    with pytest.raises(FeaturesError, match="cannot be coded; a stream holds at most 4096 in all"):
        bitstream.write(Header(MODEL, grid, n_clusters), TABLES, symbols, level_ND)


def test_tables_must_be_positive_and_sum_to_the_coders_total() -> None:
    """A table that does not sum to 2**24 is refused when a model is loaded."""
    with pytest.raises(ValueError, match="does not sum"):
        ModelTables(np.array([1, 2]), np.zeros((2, 0, 2 * LIMIT + 1), np.int64), [])


def claim(grid: tuple[int, int], n_clusters: int) -> bytes:
    """A forged stream with these claims and no words."""
    return with_checksum(b"TF\x01" + MODEL + bytes(grid) + n_clusters.to_bytes(2, "little"))


@pytest.mark.parametrize(
    ("grid", "n_clusters", "limits", "found", "limit"),
    [
        ((127, 1), 32, bitstream.LIMITS, "32 features for each of 128 patches, 4096 in all", "136 patches and 2176 f"),
        ((0, 0), 2177, bitstream.LIMITS, "2177 features for each of 1 patches", "2176 features in all"),
        ((12, 12), 1, bitstream.LIMITS, "1 features for each of 145 patches", "up to 136 patches"),
        ((2, 2), 7, Limits(5, 6), "35 in all", "up to 5 patches and 30 features"),
        ((3, 2), 4, Limits(5, 6), "4 features for each of 7 patches", "up to 5 patches"),
    ],
)
def test_a_claim_beyond_the_limits_is_refused_before_anything_is_decoded(
    grid: tuple[int, int], n_clusters: int, limits: Limits, found: str, limit: str
) -> None:
    """The sentence has the claim and the limit; within limits of its own size, the same stream is decoded."""
    stream = claim(grid, n_clusters)
    with pytest.raises(BitstreamError, match=f"{found}.*{limit}"):
        bitstream.read_side_information(stream, MODEL, TABLES, limits)
    n_patches = grid[0] * grid[1] + 1
    side = bitstream.read_side_information(stream, MODEL, TABLES, Limits(n_patches, n_clusters))
    assert side.header.n_features == n_patches * n_clusters


@given(
    patch_px=st.integers(64, 1024),
    megapixels=st.floats(0.1, 100),
    ratio=st.floats(0.25, 4),
    share=st.floats(0.1, 1),
)
def test_a_picture_within_the_pixels_is_within_the_patches(
    patch_px: int, megapixels: float, ratio: float, share: float
) -> None:
    """No picture of at most so many pixels, up to four times as wide or high, has more patches than the limit."""
    max_pixels = int(1e6 * megapixels)
    width = max(1, int((share * max_pixels * ratio) ** 0.5))
    height = max(1, int((share * max_pixels / ratio) ** 0.5))
    n_patches = -(-width // patch_px) * -(-height // patch_px) + 1
    assert n_patches <= Limits.of_pixels(max_pixels, patch_px).max_patches


@pytest.mark.parametrize(("max_patches", "max_clusters"), [(0, 1), (1, 0), (-3, 4)])
def test_limits_of_zero_are_refused(max_patches: int, max_clusters: int) -> None:
    """A decoder that accepts no stream at all is a mistake."""
    with pytest.raises(ValueError, match="limit nothing"):
        Limits(max_patches, max_clusters)


def test_a_level_without_a_table_is_refused() -> None:
    """Levels that no table belongs to are refused by both sides; nothing is read beyond the tables."""
    symbols, level_ND = draw(8, 1)
    header = Header(MODEL, (0, 0), 1)
    stream = bitstream.write(header, TABLES, symbols, level_ND)
    level_ND[0, 0] = laplacian.LEVELS
    with pytest.raises(ValueError, match="has no table"):
        bitstream.write(header, TABLES, symbols, level_ND)
    with pytest.raises(ValueError, match="has no table"):
        read(stream, level_ND)
