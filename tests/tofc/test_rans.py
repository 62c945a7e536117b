"""The entropy coder: its words are those of constriction's AnsCoder, and of its equations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.tofc import laplacian, rans
from harness.tofc.rans import TOTAL, Decoder, Encoder, Tables

Ints = np.ndarray


@st.composite
def counts(draw: st.DrawFn) -> Ints:
    """A table of 2 to 400 symbols: even ones, peaked ones, and those with one nearly certain symbol."""
    n = draw(st.integers(2, 400))
    kind = draw(st.sampled_from(("even", "peaked", "sure")))
    mass = np.random.default_rng(draw(st.integers(0, 1 << 20))).exponential(1.0, n)
    if kind != "even":
        mass[draw(st.integers(0, n - 1))] = mass.sum() * (
            10 if kind == "peaked" else draw(st.sampled_from((3, 1e3, 1e9)))
        )
    return laplacian.frequencies(mass)


def by_the_letter(table: Ints, symbols: Ints) -> bytes:
    """The words of these symbols, pushed from the last to the first, by Python's integers and its division."""
    n, x, words = len(table), 0, []
    before = np.concatenate([[0], np.cumsum(table)]).tolist()
    start = [c * (TOTAL - n) // TOTAL + i for i, c in enumerate(before)]
    for i in reversed(symbols.tolist()):
        share = start[i + 1] - start[i]
        if x >= share << 40:
            words.append(x & 0xFFFFFFFF)
            x >>= 32
        x = (x // share << 24) + start[i] + x % share
    return b"".join(word.to_bytes(4, "little") for word in [*words, x & 0xFFFFFFFF, x >> 32]).rstrip(b"\0")


def one_run(n: int) -> tuple[Ints, Ints]:
    """All symbols under the first table."""
    return np.zeros(1, np.int64), np.array([0, n])


def drawn(table: Ints, n: int, seed: int) -> Ints:
    """Symbols drawn from their table, and occasionally any symbol."""
    rng = np.random.default_rng(seed)
    symbols = rng.choice(len(table), n, p=table / table.sum())
    return np.where(rng.random(n) < 0.02, rng.integers(0, len(table), n), symbols).astype(np.int32)


@settings(max_examples=60)
@given(table=counts(), n=st.integers(0, 600), seed=st.integers(0, 1 << 20))
def test_words_are_those_of_the_equations_and_decode_to_the_symbols(table: Ints, n: int, seed: int) -> None:
    """The stored reciprocals divide exactly, and what was pushed is popped, down to the empty coder."""
    symbols, tables = drawn(table, n, seed), Tables([table])
    encoder = Encoder()
    encoder.push(tables, symbols, *one_run(n))
    body = encoder.to_bytes()
    assert body == by_the_letter(table, symbols)
    decoder = Decoder(body)
    assert np.array_equal(decoder.pop(tables, *one_run(n)), symbols)
    assert decoder.is_empty
    assert decoder.bits_left == 0


def test_every_share_divides_every_state_exactly() -> None:
    """For shares f of all sizes, the reciprocal gives floor(x / f) next to multiples of f, up to f 2**40."""
    rng = np.random.default_rng(0)
    shares = [*range(1, 70), *(2**k + d for k in range(7, 25) for d in (-1, 0, 1) if 2**k + d < TOTAL)]
    shares += rng.integers(1, TOTAL, 2000).tolist() + rng.integers(int(2**23.4), TOTAL, 2000).tolist()
    for share in shares:
        reciprocal, shift, increment = (int(part) for part in rans._reciprocal(np.uint64(share)))
        wholes = [1, 2, (1 << 40) - 1, 1 << 40, *rng.integers(1, 1 << 40, 12).tolist()]
        for x in (whole * share + d for whole in wholes for d in (-1, 0, 1)):
            if x < share << 40:
                assert (x + increment) * reciprocal >> 64 + shift == x // share, (share, x)


@settings(max_examples=40)
@given(tables=st.lists(counts(), min_size=1, max_size=5), seed=st.integers(0, 1 << 20))
def test_runs_of_several_tables_and_raw_bits_return(tables: list[Ints], seed: int) -> None:
    """Runs of any length, empty ones too, under tables in any order, between integers of 0 to 24 bits."""
    rng = np.random.default_rng(seed)
    table_R = rng.integers(0, len(tables), 7)
    symbols_R = [drawn(tables[t], int(rng.integers(0, 40)), seed + r) for r, t in enumerate(table_R)]
    start_R = np.cumsum([0, *map(len, symbols_R)])
    bits = rng.integers(0, 25, 50)
    values = rng.integers(0, 1 << bits)
    ready, encoder = Tables(tables), Encoder()
    encoder.push_bits(values, bits)
    encoder.push(ready, np.concatenate(symbols_R), table_R, start_R)
    encoder.push_bits(values[::-1].copy(), bits[::-1].copy())
    decoder = Decoder(encoder.to_bytes())
    assert np.array_equal(decoder.pop_bits(bits[::-1].copy()), values[::-1])
    assert np.array_equal(decoder.pop(ready, table_R, start_R), np.concatenate(symbols_R))
    assert np.array_equal(decoder.pop_bits(bits), values)
    assert decoder.is_empty


@settings(max_examples=40)
@given(table=counts(), n=st.integers(1, 600), seed=st.integers(0, 1 << 20), length=st.integers(1, 24))
def test_words_and_bit_counts_are_those_of_constriction(table: Ints, n: int, seed: int, length: int) -> None:
    """An independent coder writes the same words for symbols and uniform bits, and counts as many bits throughout."""
    stream = pytest.importorskip("constriction").stream
    symbols = drawn(table, n, seed)
    value = int(np.random.default_rng(seed).integers(0, 1 << length))
    model = stream.model.Categorical(table / TOTAL, perfect=False)
    peer = stream.stack.AnsCoder()
    peer.encode_reverse(np.array([value], np.int32), stream.model.Uniform(1 << length))
    peer.encode_reverse(symbols, model)
    encoder, tables = Encoder(), Tables([table])
    encoder.push_bits(np.array([value]), np.array([length]))
    encoder.push(tables, symbols, *one_run(n))
    assert encoder.to_bytes() == peer.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
    decoder = Decoder(encoder.to_bytes())
    for _ in range(min(n, 20)):
        assert decoder.bits_left == peer.num_valid_bits()
        assert decoder.pop(tables, *one_run(1))[0] == peer.decode(model)


@settings(max_examples=100)
@given(body=st.binary(max_size=40), table=counts(), n=st.integers(0, 3000))
def test_any_bytes_decode_to_symbols_of_the_table(body: bytes, table: Ints, n: int) -> None:
    """No bytes crash the decoder or give a symbol that the table does not have, however few they are."""
    decoder = Decoder(body)
    symbols = decoder.pop(Tables([table]), *one_run(n))
    assert len(symbols) == n
    assert n == 0 or 0 <= symbols.min() <= symbols.max() < len(table)
    assert decoder.pop_bits(np.full(50, 15)).max() < 1 << 15
    assert decoder.bits_left >= 0


def test_a_stream_takes_no_more_than_its_information() -> None:
    """100,000 symbols under the tables of all levels take at most 0.001 % and one word more than their information."""
    rng, tables = np.random.default_rng(1), [laplacian.table(level) for level in range(laplacian.LEVELS)]
    symbols_L = [rng.choice(len(table), 800, p=table / TOTAL).astype(np.int32) for table in tables]
    bits = sum(-np.log2(table[symbols] / TOTAL).sum() for table, symbols in zip(tables, symbols_L, strict=True))
    encoder = Encoder()
    encoder.push(Tables(tables), np.concatenate(symbols_L), np.arange(len(tables)), 800 * np.arange(len(tables) + 1))
    assert 8 * len(encoder.to_bytes()) <= bits * (1 + 1e-5) + 32


@pytest.mark.parametrize(
    "table", [np.array([TOTAL]), np.array([0, TOTAL]), np.array([1, TOTAL]), np.ones(2**16 + 1, np.int64)]
)
def test_tables_of_other_counts_are_refused(table: Ints) -> None:
    """One symbol, a count of 0, another sum, and too many symbols are no table."""
    with pytest.raises(ValueError, match="frequency table"):
        Tables([table])


def test_symbols_and_tables_that_do_not_exist_are_refused() -> None:
    """No index reaches beyond a table, nor beyond the last one."""
    tables = Tables([np.array([1, TOTAL - 1]), np.array([3, TOTAL - 4, 1])])
    for symbol, table in ((2, 0), (-1, 0), (3, 1), (0, 2), (0, -1)):
        run = np.array([table]), np.array([0, 1])
        with pytest.raises(ValueError, match="does not exist"):
            Encoder().push(tables, np.array([symbol], np.int32), *run)
        if table not in (0, 1):
            with pytest.raises(ValueError, match="does not exist"):
                Decoder(b"\1\2\3").pop(tables, *run)
