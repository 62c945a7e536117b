"""The reader of compressai's strings: what its encoder wrote comes back, and nothing is read that is not there."""

import contextlib

import harness.models.torchvision_ops  # noqa: F401  isort: skip - compressai imports torchvision
import numpy as np
import pytest
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from baselines.elic import Elic
from baselines.hyperprior import Hyperprior
from baselines.neural_codec import NeuralCodec, NeuralPoint
from baselines.neural_container import Picture, pack, unpack
from baselines.neural_weights import bundled
from baselines.rans_decoder import RansDecoder
from harness.errors import BitstreamError

GAUSSIAN = GaussianConditional([0.11, 1.0, 20.0])
GAUSSIAN.update()
CODER, PEER = RansDecoder(GAUSSIAN), GAUSSIAN.entropy_coder
TABLES = (GAUSSIAN._quantized_cdf.tolist(), GAUSSIAN._cdf_length.tolist(), GAUSSIAN._offset.tolist())
coded = st.lists(
    st.tuples(
        st.one_of(st.integers(-3, 3), st.integers(-200, 200), st.integers(-(2**26), 2**26)),
        st.integers(0, len(GAUSSIAN.scale_table) - 1),
    ),
    min_size=4,
    max_size=60,
)
"""compressai's encoder has no room for what it ends a string with where there are fewer symbols than four."""


def encoded(pairs: list[tuple[int, int]]) -> tuple[bytes, list[int], list[int]]:
    """The string of (symbol, index) pairs, the symbols and the indexes."""
    symbols, indexes = [symbol for symbol, _ in pairs], [index for _, index in pairs]
    return CODER.encode_with_indexes(symbols, indexes, *TABLES), symbols, indexes


@given(coded)
def test_it_reads_what_compressai_writes(pairs: list[tuple[int, int]]) -> None:
    """Symbols inside and far outside of their tables, as compressai's own decoder has them."""
    string, symbols, indexes = encoded(pairs)
    assert CODER.decode_with_indexes(string, indexes).tolist() == symbols
    assert PEER.decode_with_indexes(string, indexes, *TABLES) == symbols


@pytest.mark.parametrize("scales", [[0.11], [0.5, 64.0, 256.0]])
def test_every_symbol_of_every_table(scales: list[float]) -> None:
    """From the first to the last, and the nearest that escape on both sides."""
    model = GaussianConditional(scales)
    model.update()
    coder = RansDecoder(model)
    tables = (model._quantized_cdf.tolist(), model._cdf_length.tolist(), model._offset.tolist())
    for index, (length, offset) in enumerate(zip(*tables[1:], strict=True)):
        symbols = list(range(offset - 2, offset + length + 2))
        string = coder.encode_with_indexes(symbols, [index] * len(symbols), *tables)
        assert coder.decode_with_indexes(string, [index] * len(symbols)).tolist() == symbols


@given(pairs=coded, data=st.data())
def test_a_string_of_other_symbols_is_refused(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    """A word less, a word more, a symbol more than there are; a changed byte gives other symbols or is refused."""
    string, _, indexes = encoded(pairs)
    with pytest.raises(BitstreamError, match=r"ends before its last symbol|not 8 or a larger multiple"):
        CODER.decode_with_indexes(string[:-4], indexes)
    with pytest.raises(BitstreamError, match="goes on after its last symbol"):
        CODER.decode_with_indexes(string + bytes(4), indexes)
    with pytest.raises(BitstreamError, match=r"has [0-9]+ bytes, not 8"):
        CODER.decode_with_indexes(string[:-1], indexes)
    with pytest.raises(BitstreamError):
        CODER.decode_with_indexes(string, [*indexes, 0])
    damaged = bytearray(string)
    damaged[data.draw(st.integers(0, len(string) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(BitstreamError):
        assert CODER.decode_with_indexes(bytes(damaged), indexes).shape == (len(indexes),)


@given(string=st.binary(max_size=80), indexes=st.lists(st.integers(0, 2), max_size=80))
def test_noise_is_refused_or_read_within_its_end(string: bytes, indexes: list[int]) -> None:
    """As many symbols as were asked for, or a sentence."""
    try:
        symbols = CODER.decode_with_indexes(string, indexes)
    except BitstreamError:
        return
    assert symbols.shape == (len(indexes),)


def test_a_run_of_nibbles_is_not_followed() -> None:
    """All ones claim an escape of fifteen nibbles and fifteen more, as often as there are bytes."""
    with pytest.raises(BitstreamError, match="more than 28 bits"):
        CODER.decode_with_indexes(b"\xff" * 1_000_000, [0])


@pytest.mark.parametrize("kind", [Hyperprior, Elic])
def test_a_forged_picture_is_refused(kind: type[NeuralCodec]) -> None:
    """The checksum holds. With compressai's own decoder some of these end the process."""
    codec = kind(NeuralPoint(weights=next(iter(bundled(kind.kind)))))
    noise = np.random.default_rng(0)
    image = Image.fromarray(noise.integers(0, 256, (64, 64, 3), np.uint8))
    picture = unpack(codec.encode(image), codec._model, codec.n_strings)
    rest = picture.strings[1:]
    start = bytes(4) + b"\x00\x00\x00\x80"
    for forged in (
        Picture(64, 64, (noise.bytes(len(picture.strings[0]) // 4 * 4), *rest)),
        Picture(64, 64, (*picture.strings[:-1], picture.strings[-1][:-4])),
        Picture(64, 64, (b"\xff" * 1_000_000, *rest)),
        Picture(2000, 2000, picture.strings),
        Picture(5000, 5000, (start,) * codec.n_strings),
    ):
        with pytest.raises(BitstreamError, match="an entropy coder's string"):
            codec.decode(pack(codec._model, forged))


def test_a_channel_has_its_own_table() -> None:
    """The factorized model's index is the channel."""
    model = EntropyBottleneck(3)
    model.update()
    coder = RansDecoder(model)
    tables = (model._quantized_cdf.tolist(), model._cdf_length.tolist(), model._offset.tolist())
    symbols = [-20, 0, 3, 5, 1, -1]
    string = coder.encode_with_indexes(symbols, [0, 1, 2, 2, 1, 0], *tables)
    assert coder.decode_with_indexes(string, [0, 1, 2, 2, 1, 0]).tolist() == symbols
