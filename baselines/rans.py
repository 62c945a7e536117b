"""The asymmetric numeral system of compressai's strings: an encoder, a decoder that stays within its string, tables.

A string is what compressai's coder writes, bit for bit. compressai's own encoder writes out of bounds where there are
fewer symbols than four, and its decoder reads beyond the end of a string; neither happens here.

    N symbols   T tables   A entries of a table

A string is 32-bit words, little-endian; the first two are the state. A symbol's table holds 16-bit cumulative
frequencies; its last entry escapes to an integer in nibbles, preceded by their number. The encoder starts in the state
2^31 and without words, so that this is what an undamaged string ends in.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import BitstreamError, CheckpointError
from harness.kernels import kernel, warm_up

TABLE_BITS = 16
TOTAL = 1 << TABLE_BITS
"""The sum of a table's frequencies."""
MOST_SYMBOL = 2**27 - 1 - TOTAL
"""The largest magnitude of a symbol that the 28 bits of every table's escape hold, whatever the table's offset."""

_LOW = np.uint64(1 << 31)
_TABLE_BITS, _TABLE_MASK = np.uint64(TABLE_BITS), np.uint64(TOTAL - 1)
_NIBBLE_BITS, _NIBBLE_MASK = np.uint64(4), np.uint64(15)
_WORD_BITS, _WORD_MASK = np.uint64(32), np.uint64(2**32 - 1)
_MOST_NIBBLES = 7
"""With eight, compressai's encoder shifts 32 bits by 32, and never ends."""
_SLACK_BITS = math.log2(1 + 2**-15)
"""What a step of the decoder may take less from the state than -log2 of the symbol's frequency: the state is 2^31 or
more, and its lower 16 bits are rounded up."""
_STATE_BYTES, _WORD_BYTES = 8, 4
_MOST_SYMBOL_BITS = TABLE_BITS + 4 * (1 + _MOST_NIBBLES)

_WHOLE, _ENDS, _IMPOSSIBLE = range(3)
_WRONG = {_ENDS: "ends before its last symbol", _IMPOSSIBLE: "holds a symbol of more than 28 bits"}


class Rans:
    """The coder of a set of final tables: row t is the table of index t.

    cdf_TA holds cumulative frequencies, length_T how many of a row's entries count, offset_T what the first one stands
    for; all int32. Raises CheckpointError unless every table rises from 0 to TOTAL.
    """

    def __init__(self, cdf_TA: NDArray[np.int32], length_T: NDArray[np.int32], offset_T: NDArray[np.int32]) -> None:
        _check_tables(cdf_TA, length_T, offset_T)
        self._tables = tuple(np.ascontiguousarray(table) for table in (cdf_TA, length_T, offset_T))
        most_T = np.array([np.diff(row[:length]).max() for row, length in zip(cdf_TA, length_T, strict=True)])
        self._fewest_bits_T = np.maximum(0, TABLE_BITS - np.log2(most_T) - _SLACK_BITS)

    def encode(self, symbol_N: ArrayLike, index_N: ArrayLike) -> bytes:
        """The string of integers, each with the index of its table.

        Raises CheckpointError for a symbol beyond the escapes; trained weights give none.
        """
        symbol_N, index_N = np.asarray(symbol_N, np.int32).ravel(), self._index(index_N)
        assert symbol_N.shape == index_N.shape
        far = np.abs(symbol_N.astype(np.int64))
        if len(far) and int(far.max()) > MOST_SYMBOL:
            value = int(symbol_N[far.argmax()])
            raise CheckpointError(
                f"the weights give a symbol of {value} for a picture, and strings hold {-MOST_SYMBOL} to {MOST_SYMBOL}"
            )
        words, start = _encode(symbol_N, index_N, *self._tables)
        return words[start:].astype("<u4").tobytes()

    def decode(self, string: bytes, index_N: ArrayLike) -> NDArray[np.int32]:
        """The symbols of a string, one for each index of a table.

        Raises BitstreamError unless the encoder could have written the string.
        """
        stream = self.stream(string)
        symbol_N = stream.read(index_N)
        stream.close()
        return symbol_N

    def stream(self, string: bytes) -> "Stream":
        """The string, to be read piece by piece; raises BitstreamError unless its length is one that the coder writes.

        A context model finds each piece's tables from the symbols before it.
        """
        if len(string) < _STATE_BYTES or len(string) % _WORD_BYTES:
            raise BitstreamError(f"an entropy coder's string has {len(string)} bytes, not 8 or a larger multiple of 4")
        return Stream(string, self._tables)

    def check(self, string: bytes, n_symbols: int, *, each_table: bool) -> None:
        """Raise BitstreamError where a string cannot hold ``n_symbols`` symbols, before anything is allocated for them.

        With ``each_table`` every table has the same share of the symbols, as the channels of z have. A symbol takes
        -log2 of its frequency from the state, and the state begins with the string's bits and ends with 31 of them.
        """
        per_symbol = self._fewest_bits_T.mean() if each_table else self._fewest_bits_T.min()
        fewest = math.floor((n_symbols * float(per_symbol) + 31) / 8)
        most = math.ceil(n_symbols * _MOST_SYMBOL_BITS / 8) + _STATE_BYTES + _WORD_BYTES
        if not fewest <= len(string) <= most:
            raise BitstreamError(
                f"an entropy coder's string has {len(string)} bytes; {n_symbols} symbols take {fewest} to {most}"
            )

    def _index(self, index_N: ArrayLike) -> NDArray[np.int32]:
        index_N = np.asarray(index_N, np.int32).ravel()
        assert not len(index_N) or 0 <= int(index_N.min()) <= int(index_N.max()) < len(self._tables[1])
        return index_N


class Stream:
    """A string that is being decoded."""

    def __init__(self, string: bytes, tables: Sequence[NDArray[np.int32]]) -> None:
        self._string_bytes = len(string)
        self._words = np.frombuffer(string, "<u4").astype(np.uint32)
        self._state = np.array([int(self._words[0]) | int(self._words[1]) << 32, 2], np.uint64)
        self._tables = tables

    def read(self, index_N: ArrayLike) -> NDArray[np.int32]:
        """The next symbols; raises BitstreamError if the string does not have them."""
        index_N = np.asarray(index_N, np.int32).ravel()
        assert not len(index_N) or 0 <= int(index_N.min()) <= int(index_N.max()) < len(self._tables[1])
        symbol_N = np.empty(len(index_N), np.int32)
        found = _decode(self._words, self._state, index_N, symbol_N, *self._tables)
        if found != _WHOLE:
            raise BitstreamError(f"an entropy coder's string of {self._string_bytes} bytes {_WRONG[found]}")
        return symbol_N

    def close(self) -> None:
        """Raise BitstreamError unless the string ends here."""
        if self._state[0] != _LOW or int(self._state[1]) != len(self._words):
            raise BitstreamError(
                f"an entropy coder's string of {self._string_bytes} bytes continues after its last symbol"
            )


def _check_tables(cdf_TA: NDArray[np.int32], length_T: NDArray[np.int32], offset_T: NDArray[np.int32]) -> None:
    """The compiled loops trust their tables: raise CheckpointError where they must not."""
    if any(table.dtype != np.int32 for table in (cdf_TA, length_T, offset_T)):
        raise CheckpointError("its tables are not int32")
    if cdf_TA.ndim != 2 or not len(cdf_TA) or length_T.shape != offset_T.shape or length_T.shape != cdf_TA.shape[:1]:
        raise CheckpointError("its tables are not of as many rows each")
    if int(length_T.min()) < 3 or int(length_T.max()) > cdf_TA.shape[1]:
        raise CheckpointError("a table has fewer than three entries, or more than there are")
    if int(offset_T.min()) < -TOTAL or int(offset_T.max()) > TOTAL:
        raise CheckpointError(f"a table's offset is beyond {TOTAL}")
    for row, length in zip(cdf_TA, length_T, strict=True):
        entries = row[:length].astype(np.int64)
        if entries[0] != 0 or entries[-1] != TOTAL or int(np.diff(entries).min()) < 1:
            raise CheckpointError(f"a table does not rise from 0 to {TOTAL}")


def quantised_cdf(pmf_A: ArrayLike) -> NDArray[np.int32]:
    """The cumulative frequencies of float32 probabilities: from 0 to TOTAL, each at least one above the last.

    As compressai's pmf_to_quantized_cdf: a probability that rounds to none takes one from the smallest frequency that
    is above one. Raises CheckpointError where there are probabilities below 0, none above it, or too many.
    """
    pmf_A = np.asarray(pmf_A, np.float32)
    if not bool(np.isfinite(pmf_A).all()) or float(pmf_A.min()) < 0:
        raise CheckpointError("a probability of its tables is negative or not finite")
    frequency_A = np.floor(pmf_A.astype(np.float64) * TOTAL + 0.5).astype(np.int64)
    total = int(frequency_A.sum())
    if total == 0 or len(pmf_A) >= TOTAL:
        raise CheckpointError(f"{len(pmf_A)} probabilities that sum to {float(pmf_A.sum()):g} do not make a table")
    cdf = np.concatenate(([0], np.cumsum(frequency_A * TOTAL // total)))
    cdf[-1] = TOTAL
    _steal(cdf)
    return cdf.astype(np.int32)


@kernel
def _steal(cdf: NDArray[np.int64]) -> None:
    for empty in range(len(cdf) - 1):
        if cdf[empty] != cdf[empty + 1]:
            continue
        fewest, donor = np.int64(TOTAL + 1), -1
        for place in range(len(cdf) - 1):
            frequency = cdf[place + 1] - cdf[place]
            if 1 < frequency < fewest:
                fewest, donor = frequency, place
        for place in range(donor + 1, empty + 1):
            cdf[place] -= 1
        for place in range(empty + 1, donor + 1):
            cdf[place] += 1


@kernel
def _encode(
    symbol_N: NDArray[np.int32],
    index_N: NDArray[np.int32],
    cdf_TA: NDArray[np.int32],
    length_T: NDArray[np.int32],
    offset_T: NDArray[np.int32],
) -> tuple[NDArray[np.uint32], int]:
    """Words whose string begins at the second result; the last symbol is coded first."""
    n_escapes = 0
    for n in range(len(symbol_N)):
        value = np.int64(symbol_N[n]) - offset_T[index_N[n]]
        n_escapes += value < 0 or value >= length_T[index_N[n]] - 2
    # A symbol pushes one word at most, and the 32 bits of an escape two.
    words = np.empty(len(symbol_N) + 2 * n_escapes + 2, np.uint32)
    place, state = len(words), _LOW
    for n in range(len(symbol_N) - 1, -1, -1):
        table = index_N[n]
        last = np.int64(length_T[table]) - 2
        value = np.int64(symbol_N[n]) - offset_T[table]
        if value < 0 or value >= last:
            excess = np.uint64(-2 * value - 1 if value < 0 else 2 * (value - last))
            value = last
            n_nibbles = np.uint64(0)
            while excess >> (_NIBBLE_BITS * n_nibbles) != np.uint64(0):
                n_nibbles += np.uint64(1)
            # The decoder meets the number first and then the lowest nibble, so they are pushed from the other end.
            for taken in range(np.int64(n_nibbles), -1, -1):
                nibble = n_nibbles
                if taken > 0:
                    nibble = excess >> (_NIBBLE_BITS * np.uint64(taken - 1)) & _NIBBLE_MASK
                if state >= _LOW << np.uint64(28):
                    place -= 1
                    words[place] = np.uint32(state & _WORD_MASK)
                    state >>= _WORD_BITS
                state = state << _NIBBLE_BITS | nibble
        start = np.uint64(cdf_TA[table, value])
        frequency = np.uint64(cdf_TA[table, value + 1]) - start
        if state >= frequency << np.uint64(47):
            place -= 1
            words[place] = np.uint32(state & _WORD_MASK)
            state >>= _WORD_BITS
        state = ((state // frequency) << _TABLE_BITS) + state % frequency + start
    place -= 2
    words[place] = np.uint32(state & _WORD_MASK)
    words[place + 1] = np.uint32(state >> _WORD_BITS)
    return words, place


@kernel
def _decode(
    words: NDArray[np.uint32],
    state_and_place: NDArray[np.uint64],
    index_N: NDArray[np.int32],
    symbol_N: NDArray[np.int32],
    cdf_TA: NDArray[np.int32],
    length_T: NDArray[np.int32],
    offset_T: NDArray[np.int32],
) -> int:
    state, place = state_and_place[0], np.int64(state_and_place[1])
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
    state_and_place[0], state_and_place[1] = state, np.uint64(place)
    return _WHOLE


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


@warm_up
def prepare() -> None:
    """Compile the coder's kernels."""
    cdf_TA, length_T, offset_T = quantised_cdf([1.0, 0.0, 1.0])[None], np.array([4], np.int32), np.zeros(1, np.int32)
    coder = Rans(cdf_TA, length_T, offset_T)
    coder.decode(coder.encode([0, 5], [0, 0]), [0, 0])
