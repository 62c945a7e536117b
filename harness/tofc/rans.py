"""The entropy coder: a range asymmetric numeral system with one state, over tables of integers.

    T tables   A symbols of a table   M symbols   R runs, each of symbols under one table

A table gives each of its symbols a share f >= 1 of 2**24, which begins at c. The state x is an integer below 2**64. To
push a symbol,

    where x >= f 2**40, the low 32 bits of x become a word, and x its high 32 bits
    x becomes floor(x / f) 2**24 + c + (x mod f)

and to pop one, with q = x mod 2**24, it is the symbol whose c <= q < c + f, and

    x becomes f floor(x / 2**24) + q - c
    where x < 2**32 and a word is left, x becomes x 2**32 plus the newest word

The coder is a stack: what is pushed last is popped first. It starts with x = 0 and no word, and so it ends. At the end
x is written as its low and its high word, without zero words. These are the words of constriction's AnsCoder
(Bamler, "Understanding entropy coding with asymmetric numeral systems: from the theory to an efficient
implementation", 2022); the system itself is Duda's, arXiv 1311.2540.

The time is that of one dependency chain, from each state to the next. So the division is a product with a stored
reciprocal, and popping starts at the one of 256 cells that holds q.
"""

from collections.abc import Sequence
from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from harness.kernels import kernel, warm_up

Ints = NDArray[np.int64]
Indices = NDArray[np.int32]
Words = NDArray[np.uint32]
Array = NDArray[np.uint64]

PRECISION = 24
TOTAL = 1 << PRECISION
"""What the shares of a table sum to."""

MAX_SYMBOLS = 1 << 16
"""Of a table."""

_CELL_BITS = 8

# Of one type in kernels: numba makes a float of a signed and an unsigned integer.
_0, _1 = np.uint64(0), np.uint64(1)
_WORD = np.uint64(32)
_BITS = np.uint64(PRECISION)
_FULL = np.uint64(64 - PRECISION)
_TOTAL = np.uint64(TOTAL)
_MASK = np.uint64(TOTAL - 1)
_LOW = np.uint64(1 << 32)
_CELL = np.uint64(PRECISION - _CELL_BITS)
_SHARE, _SYMBOL = np.uint64(24), np.uint64(48)
_SHIFT, _INCREMENT = np.uint64(32), np.uint64(40)
_SHIFTS = np.uint64(63)


class Tables:
    """Tables of integers, ready to code with.

    ``counts`` holds for each table its symbols' counts: 2 to 2**16 integers of at least 1 that sum to 2**24. What a
    symbol's share of 2**24 begins at is floor(C (2**24 - A) / 2**24) + i for symbol i, with C the counts before it.
    Raises ValueError for any other counts.
    """

    def __init__(self, counts: Sequence[Ints]) -> None:
        size_T = np.array([len(table) for table in counts], np.int64)
        count_S = np.concatenate([np.zeros(0, np.int64), *counts])
        self.first_T = np.concatenate([[0], np.cumsum(size_T)])
        n_symbols = int(self.first_T[-1])
        if ((size_T < 2) | (size_T > MAX_SYMBOLS)).any():
            raise ValueError(f"a frequency table has {size_T.min()} or {size_T.max()} entries, not 2 to {MAX_SYMBOLS}")
        if (
            (count_S < 1).any()
            or (count_S > TOTAL).any()
            or (np.add.reduceat(count_S, self.first_T[:-1]) != TOTAL).any()
        ):
            raise ValueError("a frequency table has an entry below 1 or does not sum to 2**24")
        # A symbol's c, f and own number in one integer: popping reads one place of memory for all three.
        self.entry_S = np.empty(n_symbols, np.uint64)
        # What pushing a symbol reads, in one place, too: f 2**40, r, 2**24 - f, and c with s and d in its upper half.
        self.pushed_S4 = np.empty((n_symbols, 4), np.uint64)
        self.cell_TC = np.empty((len(counts), 1 << _CELL_BITS), np.uint64)
        _set_up(count_S, self.first_T, self.entry_S, self.pushed_S4, self.cell_TC)


class Encoder:
    """A stack to push symbols on."""

    def __init__(self) -> None:
        self._words = np.empty(1024, np.uint32)
        self._state = np.zeros(2, np.uint64)

    def push(self, tables: Tables, index_M: Indices, table_R: Ints, start_R: Ints) -> None:
        """Push symbols, the last first: those from start_R[r] up to start_R[r + 1] under table table_R[r].

        Raises ValueError for a symbol that its table does not have; the encoder cannot be used after that.
        """
        self._make_room(len(index_M))
        if not _push(self._words, self._state, index_M, table_R, start_R, tables.first_T, tables.pushed_S4):
            raise ValueError("a symbol or a table to be coded does not exist")

    def push_bits(self, value_M: Ints, bits_M: Ints) -> None:
        """Push integers of 0 to 24 bits, the last first, all values of a length being equally likely."""
        self._make_room(len(value_M))
        _push_bits(self._words, self._state, value_M, bits_M)

    def to_bytes(self) -> bytes:
        """All words, little-endian, the newest last, without the zero bytes at the end."""
        x, n_words = (int(part) for part in self._state)
        return (self._words[:n_words].astype("<u4").tobytes() + x.to_bytes(8, "little")).rstrip(b"\0")

    def _make_room(self, n_symbols: int) -> None:
        n_words = int(self._state[1])
        if n_words + n_symbols > len(self._words):
            grown = np.empty(2 * n_words + n_symbols, np.uint32)
            grown[:n_words] = self._words[:n_words]
            self._words = grown


class Decoder:
    """A stack to pop symbols from: ``body`` is an encoder's bytes. Any other bytes give symbols, too."""

    def __init__(self, body: bytes) -> None:
        words = np.frombuffer(body + bytes(-len(body) % 4), "<u4").astype(np.uint32)
        n_words = max(0, len(words) - 2)
        x = int.from_bytes(words[n_words:].astype("<u4").tobytes(), "little")
        self._words = words
        self._state = np.array([x, n_words], np.uint64)

    @property
    def bits_left(self) -> int:
        """The information that has not been popped, in whole bits."""
        x, n_words = (int(part) for part in self._state)
        return 32 * n_words + max(x.bit_length() - 1, 0)

    @property
    def is_empty(self) -> bool:
        """Whether what is left is what an encoder starts with."""
        return not self._state.any()

    def pop(self, tables: Tables, table_R: Ints, start_R: Ints) -> Indices:
        """Pop the symbols that :meth:`Encoder.push` pushed under the same runs.

        Raises ValueError for a table that does not exist.
        """
        index_M = np.empty(int(start_R[-1]), np.int32)
        shares = (tables.first_T, tables.entry_S, tables.cell_TC)
        if not _pop(self._words, self._state, index_M, table_R, start_R, *shares):
            raise ValueError("a table to decode with does not exist")
        return index_M

    def pop_bits(self, bits_M: Ints) -> Ints:
        """Pop the integers that :meth:`Encoder.push_bits` pushed."""
        value_M = np.empty(len(bits_M), np.int64)
        _pop_bits(self._words, self._state, value_M, bits_M)
        return value_M


@intrinsic
def _product(typing: Any, a: Any, b: Any) -> Any:  # noqa: ARG001
    """The upper 64 bits of the product of two uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


_high: Any = _product


@kernel
def _set_up(
    count_S: Ints,
    first_T: Ints,
    entry_S: Array,
    pushed_S4: Array,
    cell_TC: Array,
) -> None:
    for t in range(len(first_T) - 1):
        first, n_symbols = first_T[t], first_T[t + 1] - first_T[t]
        before, start, cell = 0, np.uint64(0), 0
        for i in range(n_symbols):
            before += count_S[first + i]
            end = np.uint64((before * (TOTAL - n_symbols) >> PRECISION) + i + 1)
            share = end - start
            entry = np.uint64(i) << _SYMBOL | share << _SHARE | start
            entry_S[first + i] = entry
            while cell < cell_TC.shape[1] and np.uint64(cell) << _CELL < end:
                cell_TC[t, cell] = entry
                cell += 1
            reciprocal, shift, increment = _reciprocal(share)
            pushed_S4[first + i, 0] = share << _FULL
            pushed_S4[first + i, 1] = reciprocal
            pushed_S4[first + i, 2] = _TOTAL - share
            pushed_S4[first + i, 3] = increment << _INCREMENT | shift << _SHIFT | start
            start = end


@kernel
def _reciprocal(share: np.uint64) -> tuple[np.uint64, np.uint64, np.uint64]:
    """(r, s, d) with floor(x / f) = floor((x + d) r / 2**(64 + s)) for every x < f 2**40.

    With 2**s < f <= 2**(s + 1), r is 2**(64 + s) / f rounded up where that makes an error e = r f - 2**(64 + s) so
    small that x e < 2**(64 + s). It always does up to f = 2**23.5. Beyond it may not; then rounding down, with d = 1,
    has an error f - e that does. See Granlund and Montgomery, "Division by invariant integers using multiplication",
    1994, and Robison, "N-bit unsigned division via N-bit multiply-add", 2005.
    """
    if share == _1:
        return ~np.uint64(0), _0, _1
    shift = np.uint64(0)
    while _1 << (shift + _1) < share:
        shift += _1
    high = _1 << (shift + _WORD)
    rest = high % share << _WORD
    down = (high // share << _WORD) + rest // share
    error = (share - rest % share) % share
    if error == 0:
        # A power of two: r = 2**(64 + s) / f = 2**63.
        return down, shift, _0
    # x e < f 2**40 e, which is below 2**88.
    if _high(share << _FULL, error) < _1 << shift:
        return down + _1, shift, _0
    return down, shift, _1


@kernel
def _push(
    words: Words,
    state: Array,
    index_M: Indices,
    table_R: Ints,
    start_R: Ints,
    first_T: Ints,
    pushed_S4: Array,
) -> bool:
    # Indices are unsigned: numba would look whether a signed one counts from the end.
    x, n = state[0], state[1]
    for r in range(len(table_R) - 1, -1, -1):
        if not 0 <= table_R[r] < len(first_T) - 1:
            return False
        first = np.uint64(first_T[table_R[r]])
        n_symbols = np.uint64(first_T[table_R[r] + 1]) - first
        for m in range(start_R[r + 1] - 1, start_R[r] - 1, -1):
            i = np.uint64(np.int64(index_M[np.uint64(m)]))
            if i >= n_symbols:
                return False
            i += first
            packed = pushed_S4[i, 3]
            increment = packed >> _INCREMENT
            # Without a branch, which would be mispredicted once a word; what is chosen is what is multiplied.
            words[n] = np.uint32(x)
            full = x >= pushed_S4[i, 0]
            n += np.uint64(full)
            raised = (x >> _WORD) + increment if full else x + increment
            whole = _high(raised, pushed_S4[i, 1]) >> (packed >> _SHIFT & _SHIFTS)
            # floor(x / f) 2**24 + x mod f
            x = raised + ((packed & _MASK) - increment) + whole * pushed_S4[i, 2]
    state[0], state[1] = x, n
    return True


@kernel
def _pop(
    words: Words,
    state: Array,
    index_M: Indices,
    table_R: Ints,
    start_R: Ints,
    first_T: Ints,
    entry_S: Array,
    cell_TC: Array,
) -> bool:
    x, n = state[0], np.int64(state[1])
    for r in range(len(table_R)):
        if not 0 <= table_R[r] < len(first_T) - 1:
            return False
        first, cell_C = first_T[table_R[r]], cell_TC[table_R[r]]
        for m in range(start_R[r], start_R[r + 1]):
            q = x & _MASK
            entry = cell_C[q >> _CELL]
            # A table's shares fill 2**24, which q is below: this ends.
            while q - (entry & _MASK) >= entry >> _SHARE & _MASK:
                entry = entry_S[first + np.int64(entry >> _SYMBOL) + 1]
            x = (entry >> _SHARE & _MASK) * (x >> _BITS) + (q - (entry & _MASK))
            more = x < _LOW and n > 0
            n -= np.int64(more)
            x = x << _WORD | np.uint64(words[n]) if more else x
            index_M[m] = np.int32(entry >> _SYMBOL)
    state[0], state[1] = x, np.uint64(n)
    return True


@kernel
def _push_bits(words: Words, state: Array, value_M: Ints, bits_M: Ints) -> None:
    x, n = state[0], np.int64(state[1])
    for m in range(len(value_M) - 1, -1, -1):
        bits = np.uint64(bits_M[m])
        if bits > 0:
            log_share = _BITS - bits
            if x >> (log_share + _FULL) > 0:
                words[n] = np.uint32(x)
                n += 1
                x >>= _WORD
            rest = x & (_1 << log_share) - _1
            x = x >> log_share << _BITS | np.uint64(value_M[m]) << log_share | rest
    state[0], state[1] = x, np.uint64(n)


@kernel
def _pop_bits(words: Words, state: Array, value_M: Ints, bits_M: Ints) -> None:
    x, n = state[0], np.int64(state[1])
    for m in range(len(value_M)):
        value_M[m] = 0
        bits = np.uint64(bits_M[m])
        if bits > 0:
            log_share = _BITS - bits
            value_M[m] = np.int64((x & _MASK) >> log_share)
            x = x >> _BITS << log_share | x & (_1 << log_share) - _1
            if x < _LOW and n > 0:
                n -= 1
                x = x << _WORD | np.uint64(words[n])
    state[0], state[1] = x, np.uint64(n)


@warm_up
def prepare() -> None:
    """Compile the coder's kernels."""
    tables = Tables([np.array([TOTAL - 1, 1])])
    run, start, one = np.zeros(1, np.int64), np.array([0, 1]), np.ones(1, np.int64)
    encoder = Encoder()
    encoder.push(tables, np.zeros(1, np.int32), run, start)
    encoder.push_bits(one, one)
    decoder = Decoder(encoder.to_bytes())
    decoder.pop_bits(one)
    decoder.pop(tables, run, start)
