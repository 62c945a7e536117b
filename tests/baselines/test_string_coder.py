"""The coder of compressai's strings: what was written is read back, and nothing is read or written out of bounds."""

import contextlib
import math
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from baselines.networks.entropy_models import EntropyBottleneck, GaussianConditional
from baselines.neural_codec import Elic, Hyperprior, NeuralCodec, NeuralPoint, bundled
from baselines.neural_container import CodedPicture, pack, unpack
from baselines.rans import MOST_SYMBOL, TOTAL, Rans, quantised_cdf
from harness.errors import BitstreamError, CheckpointError


def gaussian(*scales: float) -> GaussianConditional:
    """Gaussians with tables."""
    model = GaussianConditional()
    model.update(torch.tensor(scales))
    model.freeze()
    return model


GAUSSIAN = gaussian(0.11, 1.0, 20.0)
CODER = GAUSSIAN.coder
TABLES = (GAUSSIAN._quantized_cdf.tolist(), GAUSSIAN._cdf_length.tolist(), GAUSSIAN._offset.tolist())
coded = st.lists(
    st.tuples(
        st.one_of(st.integers(-3, 3), st.integers(-200, 200), st.integers(-(2**26), 2**26)),
        st.integers(0, len(GAUSSIAN.scale_table) - 1),
    ),
    max_size=60,
)
PEER_FEWEST = 4
"""compressai's encoder writes out of bounds where there are fewer symbols."""


def encoded(pairs: list[tuple[int, int]]) -> tuple[bytes, list[int], list[int]]:
    """The string of (symbol, index) pairs, the symbols and the indexes."""
    symbols, indexes = [symbol for symbol, _ in pairs], [index for _, index in pairs]
    return CODER.encode(symbols, indexes), symbols, indexes


@pytest.mark.slow
@given(coded)
def test_what_is_written_is_read_back(pairs: list[tuple[int, int]]) -> None:
    """Symbols inside and far outside their tables, also none and a single one."""
    string, symbols, indexes = encoded(pairs)
    assert CODER.decode(string, indexes).tolist() == symbols


@pytest.mark.slow
@given(coded)
def test_strings_are_compressais(compressai: ModuleType, pairs: list[tuple[int, int]]) -> None:
    """The same bytes, and each reads the other's."""
    from compressai.ans import RansDecoder, RansEncoder

    if len(pairs) < PEER_FEWEST:
        return
    string, symbols, indexes = encoded(pairs)
    assert RansEncoder().encode_with_indexes(symbols, indexes, *TABLES) == string
    assert RansDecoder().decode_with_indexes(string, indexes, *TABLES) == symbols


@pytest.mark.slow
@pytest.mark.parametrize("scales", [[0.11], [0.5, 64.0, 256.0]])
def test_every_symbol_of_every_table(scales: list[float]) -> None:
    """From the first to the last, and the nearest that escape on both sides."""
    model = gaussian(*scales)
    for index, (length, offset) in enumerate(zip(model._cdf_length.tolist(), model._offset.tolist(), strict=True)):
        symbols = list(range(offset - 2, offset + length + 2))
        string = model.coder.encode(symbols, [index] * len(symbols))
        assert model.coder.decode(string, [index] * len(symbols)).tolist() == symbols


@given(st.lists(st.tuples(st.sampled_from((1, -1)), st.integers(0, 27)), max_size=40))
def test_symbols_at_the_escapes_edges(signs_and_bits: list[tuple[int, int]]) -> None:
    """Every power of two and its neighbours, up to the largest that an escape holds."""
    symbols = [min(MOST_SYMBOL, max(-MOST_SYMBOL, s * (2**bits + d))) for s, bits in signs_and_bits for d in (-1, 0, 1)]
    assert CODER.decode(CODER.encode(symbols, [0] * len(symbols)), [0] * len(symbols)).tolist() == symbols


@pytest.mark.parametrize("symbol", [MOST_SYMBOL + 1, -MOST_SYMBOL - 1, -(2**31)])
def test_a_symbol_that_no_escape_holds_is_refused(symbol: int) -> None:
    """With them compressai's encoder does not end; the sentence names the symbol."""
    with pytest.raises(CheckpointError, match=f"a symbol of {symbol} for a picture"):
        CODER.encode([0, symbol], [0, 0])


@given(coded)
def test_a_string_is_as_long_as_its_symbols_are_unlikely(pairs: list[tuple[int, int]]) -> None:
    """At least the sum of -log2 of their frequencies, and at most a state and a word more."""
    string, symbols, indexes = encoded(pairs)
    bits = 0.0
    for symbol, index in zip(symbols, indexes, strict=True):
        cdf, last = TABLES[0][index], TABLES[1][index] - 2
        value = symbol - TABLES[2][index]
        escapes = not 0 <= value < last
        place = last if escapes else value
        bits += 16 - math.log2(cdf[place + 1] - cdf[place])
        if escapes:
            excess = -2 * value - 1 if value < 0 else 2 * (value - last)
            bits += 4 * (1 + -(-excess.bit_length() // 4))
    assert bits - 0.01 <= 8 * len(string) - 31
    assert 8 * len(string) <= bits + 0.01 + 64 + 32


@pytest.mark.slow
@given(coded)
def test_a_genuine_string_passes_the_check_of_its_length(pairs: list[tuple[int, int]]) -> None:
    """However few bits its symbols take."""
    string, symbols, _ = encoded(pairs)
    CODER.check(string, len(symbols), each_table=False)
    likely = CODER.encode([0] * 10_000, [0] * 10_000)
    assert len(likely) < 20
    CODER.check(likely, 10_000, each_table=False)


def test_a_string_that_cannot_hold_so_many_symbols_is_refused() -> None:
    """Each table's likeliest symbol takes some bits: of channels that share the symbols, the mean of these."""
    fewest = np.mean(
        [16 - math.log2(np.diff(row[:n]).max()) for row, n in zip(*map(np.array, TABLES[:2]), strict=True)]
    )
    n_symbols = math.ceil(8 * 100 / fewest)
    CODER.check(bytes(104), n_symbols, each_table=True)
    with pytest.raises(BitstreamError, match=f"has 96 bytes; {n_symbols} symbols take 10[0-9] to "):
        CODER.check(bytes(96), n_symbols, each_table=True)
    with pytest.raises(BitstreamError, match=r"has 1000 bytes; 3 symbols take \d+ to 30"):
        CODER.check(bytes(1000), 3, each_table=False)


@pytest.mark.slow
@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=300).filter(any),
    st.sampled_from((1.0, 2.0**-15, 2.0**-18)),
)
def test_a_table_rises_from_0_to_the_total(pmf: list[float], scale: float) -> None:
    """By at least one, whatever the probabilities, and close to them where all are likely."""
    values = np.array(pmf, np.float32) * np.float32(scale)
    if not np.floor(values.astype(float) * TOTAL + 0.5).any():
        with pytest.raises(CheckpointError, match="do not make a table"):
            quantised_cdf(values)
        return
    cdf = quantised_cdf(values)
    assert cdf[0] == 0
    assert cdf[-1] == TOTAL
    assert np.diff(cdf).min() >= 1
    share = values.astype(float) / values.astype(float).sum()
    if share.min() > 0.01 and scale == 1:
        assert np.abs(np.diff(cdf) / TOTAL - share).max() < 1e-3


@pytest.mark.slow
@given(
    st.lists(st.floats(0, 1, width=32), min_size=2, max_size=300).filter(any),
    st.sampled_from((1.0, 2.0**-8, 2.0**-15)),
)
def test_tables_are_compressais(compressai: ModuleType, pmf: list[float], scale: float) -> None:
    """The same integers, including those moved to rare symbols."""
    from compressai._CXX import pmf_to_quantized_cdf

    values = np.array(pmf, np.float32) * np.float32(scale)
    if np.floor(values.astype(float) * TOTAL + 0.5).any():
        assert quantised_cdf(values).tolist() == list(pmf_to_quantized_cdf(values.tolist(), 16))


@pytest.mark.parametrize("pmf", [[0.5, -0.1], [0.5, math.nan], [0.0, 0.0], [1.0] * TOTAL])
def test_an_invalid_distribution_is_refused(pmf: list[float]) -> None:
    """Negative, not a number, empty, and more entries than there are frequencies."""
    with pytest.raises(CheckpointError, match=r"negative or not finite|do not make a table"):
        quantised_cdf(pmf)


@pytest.mark.slow
@given(pairs=coded, data=st.data())
def test_a_string_of_other_symbols_is_refused(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    """A word less, a word more, a symbol more than there are; a changed byte gives other symbols or is refused."""
    string, _, indexes = encoded(pairs)
    with pytest.raises(BitstreamError, match=r"ends before its last symbol|not 8 or a larger multiple|goes on"):
        CODER.decode(string[:-4], indexes)
    with pytest.raises(BitstreamError, match="continues after its last symbol"):
        CODER.decode(string + bytes(4), indexes)
    with pytest.raises(BitstreamError, match=r"has [0-9]+ bytes, not 8"):
        CODER.decode(string[:-1], indexes)
    with pytest.raises(BitstreamError):
        CODER.decode(string, [*indexes, 0])
    damaged = bytearray(string)
    damaged[data.draw(st.integers(0, len(string) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(BitstreamError):
        assert CODER.decode(bytes(damaged), indexes).shape == (len(indexes),)


@given(string=st.binary(max_size=80), indexes=st.lists(st.integers(0, 2), max_size=80))
def test_noise_is_refused_or_read_within_its_end(string: bytes, indexes: list[int]) -> None:
    """As many symbols as were requested, or an error."""
    try:
        symbols = CODER.decode(string, indexes)
    except BitstreamError:
        return
    assert symbols.shape == (len(indexes),)


def test_an_endless_escape_is_refused() -> None:
    """All ones claim an escape of fifteen nibbles and fifteen more, as often as there are bytes."""
    with pytest.raises(BitstreamError, match="more than 28 bits"):
        CODER.decode(b"\xff" * 1_000_000, [0])


def test_a_string_is_read_piece_by_piece() -> None:
    """As a context model reads it: the pieces are those of the whole, and the end is checked."""
    symbols = list(range(-30, 30))
    stream = CODER.stream(CODER.encode(symbols, [1] * 60))
    assert [value for _ in range(6) for value in stream.read([1] * 10)] == symbols
    stream.close()
    short = CODER.stream(CODER.encode(symbols, [1] * 60))
    short.read([1] * 59)
    with pytest.raises(BitstreamError, match="continues after its last symbol"):
        short.close()


@pytest.mark.parametrize("kind", [Hyperprior, Elic])
def test_a_forged_picture_is_refused(kind: type[NeuralCodec]) -> None:
    """The checksum holds. With compressai's own decoder some of these end the process."""
    codec = kind(NeuralPoint(weights=next(iter(bundled(kind.kind)))))
    model, n_strings = codec.coder.model, codec.coder.net.n_strings
    noise = np.random.default_rng(0)
    image = Image.fromarray(noise.integers(0, 256, (64, 64, 3), np.uint8))
    picture = unpack(codec.encode(image), model, n_strings)
    rest = picture.strings[1:]
    start = bytes(4) + b"\x00\x00\x00\x80"
    for forged in (
        CodedPicture(64, 64, (noise.bytes(len(picture.strings[0]) // 4 * 4), *rest)),
        CodedPicture(64, 64, (*picture.strings[:-1], picture.strings[-1][:-4])),
        CodedPicture(64, 64, (b"\xff" * 1_000_000, *rest)),
        CodedPicture(64, 64, (b"", *rest)),
        CodedPicture(2000, 2000, picture.strings),
        CodedPicture(4000, 4000, (start,) * n_strings),
    ):
        with pytest.raises(BitstreamError, match="an entropy coder's string"):
            codec.decode(pack(model, forged))


def test_a_channel_has_its_own_table() -> None:
    """The factorized model's index is the channel."""
    model = EntropyBottleneck(3)
    model.update()
    model.freeze()
    z_1CHW = torch.tensor([[-20.0, 5.0], [0.0, 1.0], [3.0, -1.0]]).reshape(1, 3, 1, 2)
    string, z_hat = model.encode(z_1CHW)
    assert torch.equal(z_hat, z_1CHW)
    assert torch.equal(model.decode(string, 1, 2), z_1CHW)
    coder = Rans(*(getattr(model, name).numpy() for name in ("_quantized_cdf", "_cdf_length", "_offset")))
    assert coder.decode(string, [0, 0, 1, 1, 2, 2]).tolist() == [-20, 5, 0, 1, 3, -1]
