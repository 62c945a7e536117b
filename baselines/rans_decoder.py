"""compressai's asymmetric numeral system, decoded by a reader that keeps within its string.

compressai's own decoder trusts its string: it reads on behind the end, so that twenty bytes which claim a large picture
end the process. This one decodes what that one's encoder writes, and refuses everything else.

    N symbols   T tables   A entries of a table

A string is 32-bit words, little-endian; the first two are the state. A symbol's table holds 16-bit cumulative
frequencies; its last entry escapes to an integer in nibbles, preceded by their number. The encoder started in the state
2^31 and without words, so that this is what an undamaged string ends in.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from compressai.entropy_models import EntropyModel
from numpy.typing import NDArray
from torch import nn

from harness.errors import BitstreamError
from harness.kernels import kernel

_LOW = np.uint64(1 << 31)
_TABLE_BITS, _TABLE_MASK = np.uint64(16), np.uint64((1 << 16) - 1)
_NIBBLE_BITS, _NIBBLE_MASK = np.uint64(4), np.uint64(15)
_WORD_BITS = np.uint64(32)
_MOST_NIBBLES = 7
"""With eight the encoder shifts 32 bits by 32, and does not end."""

_WHOLE, _ENDS, _GOES_ON, _IMPOSSIBLE = range(4)
_WRONG = {
    _ENDS: "ends before its last symbol",
    _GOES_ON: "goes on after its last symbol",
    _IMPOSSIBLE: "holds a symbol of more than 28 bits",
}


def keep_within_strings(net: nn.Module) -> None:
    """Have every entropy model of a loaded network decode with a :class:`RansDecoder`."""
    for module in net.modules():
        if isinstance(module, EntropyModel):
            module.entropy_coder = RansDecoder(module)


class RansDecoder:
    """The coder of an entropy model whose tables are final: it encodes as compressai does, and decodes with care."""

    def __init__(self, model: EntropyModel) -> None:
        self._coder = model.entropy_coder
        self._cdf_TA = model._quantized_cdf.numpy()
        self._length_T = model._cdf_length.numpy()
        self._offset_T = model._offset.numpy()

    def encode_with_indexes(self, *arguments: Any) -> bytes:
        """As compressai's coder does, whose it is."""
        string: bytes = self._coder.encode_with_indexes(*arguments)
        return string

    def decode_with_indexes(self, string: bytes, indexes: Sequence[int], *_: Any) -> NDArray[np.int32]:
        """The symbols of a string, one for each index of a table, which are the model's own.

        Raises BitstreamError unless the encoder could have written the string.
        """
        if len(string) < 8 or len(string) % 4:
            raise BitstreamError(f"an entropy coder's string has {len(string)} bytes, not 8 or a larger multiple of 4")
        symbol_N = np.empty(len(indexes), np.int32)
        words = np.frombuffer(string, "<u4").astype(np.uint32)
        index_N = np.array(indexes, np.int32)
        found = _decode(words, index_N, self._cdf_TA, self._length_T, self._offset_T, symbol_N)
        if found != _WHOLE:
            raise BitstreamError(f"an entropy coder's string of {len(string)} bytes {_WRONG[found]}")
        return symbol_N


@kernel
def _decode(
    words: NDArray[np.uint32],
    index_N: NDArray[np.int32],
    cdf_TA: NDArray[np.int32],
    length_T: NDArray[np.int32],
    offset_T: NDArray[np.int32],
    symbol_N: NDArray[np.int32],
) -> int:
    state = np.uint64(words[0]) | np.uint64(words[1]) << _WORD_BITS
    place = 2
    for n in range(len(index_N)):
        table = index_N[n]
        cdf_A, last = cdf_TA[table], length_T[table] - 2
        share = np.int64(state & _TABLE_MASK)
        symbol = _place_of(share, cdf_A, last)
        frequency = np.uint64(cdf_A[symbol + 1] - cdf_A[symbol])
        state = frequency * (state >> _TABLE_BITS) + np.uint64(share - cdf_A[symbol])
        if state < _LOW:
            if place == len(words):
                return _ENDS
            state = state << _WORD_BITS | np.uint64(words[place])
            place += 1
        value = np.int64(symbol)
        if symbol == last:
            # The number of nibbles, then the nibbles, the lowest first.
            n_nibbles, excess, taken = np.int64(0), np.int64(0), -1
            while taken < n_nibbles:
                nibble = np.int64(state & _NIBBLE_MASK)
                state >>= _NIBBLE_BITS
                if state < _LOW:
                    if place == len(words):
                        return _ENDS
                    state = state << _WORD_BITS | np.uint64(words[place])
                    place += 1
                if taken < 0:
                    n_nibbles = nibble
                    if n_nibbles > _MOST_NIBBLES:
                        return _IMPOSSIBLE
                else:
                    excess |= nibble << np.int64(4 * taken)
                taken += 1
            value = -(excess >> 1) - 1 if excess & 1 else (excess >> 1) + last
        symbol_N[n] = value + offset_T[table]
    return _WHOLE if state == _LOW and place == len(words) else _GOES_ON


@kernel
def _place_of(share: np.int64, cdf_A: NDArray[np.int32], last: np.int64) -> np.int64:
    """The symbol, from 0 to ``last``, whose frequencies hold this share of all."""
    symbol, above = np.int64(0), last + 1
    while above - symbol > 1:
        middle = (symbol + above) >> 1
        if cdf_A[middle] <= share:
            symbol = middle
        else:
            above = middle
    return symbol
