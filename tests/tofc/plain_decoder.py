"""A decoder of TOFC streams written from docs/bitstream.md alone: in Python's integers, without the package's code.

It is slow and reads one stream at a time, so that it is easy to compare with the description.
"""

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import safe_open


class Contents(NamedTuple):
    """The content of a stream: its grid, the model of each feature, z, y, and the features, float32 (N, D)."""

    grid: tuple[int, int]
    n_c: int
    experts: list[int]
    z: list[list[int]]
    y: list[list[int]]
    features: np.ndarray


class Stack:
    """The coder: a state and the words below it."""

    def __init__(self, body: bytes) -> None:
        body += bytes(-len(body) % 4)
        self.words = [int.from_bytes(body[i : i + 4], "little") for i in range(0, len(body), 4)]
        self.x = 0
        for _ in range(min(2, len(self.words))):
            self.x = self.x << 32 | self.words.pop()

    def pop(self, counts: list[int]) -> int:
        """The next symbol, under a table of counts that sum to 2**24."""
        n, q, before = len(counts), self.x % 2**24, 0
        for symbol, count in enumerate(counts):
            begin = before * (2**24 - n) // 2**24 + symbol
            before += count
            end = before * (2**24 - n) // 2**24 + symbol + 1
            if begin <= q < end:
                break
        self.x = (end - begin) * (self.x // 2**24) + q - begin
        self._refill()
        return symbol

    def pop_bits(self, n: int) -> int:
        """The next integer of n bits."""
        value, rest = divmod(self.x % 2**24, 2 ** (24 - n))
        self.x = 2 ** (24 - n) * (self.x // 2**24) + rest
        self._refill()
        return value

    def _refill(self) -> None:
        if self.x < 2**32 and self.words:
            self.x = self.x << 32 | self.words.pop()


def decode(stream: bytes, checkpoint: Path) -> Contents:
    """The contents of a stream of the codec in ``checkpoint``."""
    with safe_open(checkpoint, framework="np") as file:
        assert file.metadata()["format"] == "tofc-codec-3"
        model = bytes.fromhex(file.metadata()["hash"])[:4]
        frozen = {name: file.get_tensor(name) for name in file.keys() if name.startswith(("frozen.", "offset_D"))}  # noqa: SIM118
    assert stream[:3] == b"TF\x01"
    assert stream[3:7] == model
    n_h, n_w, n_c = stream[7], stream[8], int.from_bytes(stream[9:11], "little")
    assert zlib.crc32(stream[:-4]) == int.from_bytes(stream[-4:], "little")
    n_features = (n_h * n_w + 1) * n_c
    stack = Stack(stream[11:-4])

    expert_table = frozen["frozen.expert_E"].tolist()
    experts = [stack.pop(expert_table) if len(expert_table) > 1 else 0 for _ in range(n_features)]
    z_tables = frozen["frozen.z_EZA"].tolist()
    z = [[stack.pop(table) - 31 for table in z_tables[expert]] for expert in experts]

    means, levels = zip(*(h_s(frozen, expert, row) for expert, row in zip(experts, z, strict=True)), strict=True)
    dim = len(means[0])
    y_tables = split(frozen["frozen.y"].tolist())
    y = [[0] * dim for _ in range(n_features)]
    escaped = []
    for level, table in enumerate(y_tables):
        reach = len(table) // 2 - 1
        for n in range(n_features):
            for d in range(dim):
                if levels[n][d] == level:
                    y[n][d] = stack.pop(table) - reach
                    if y[n][d] > reach:
                        escaped.append((n, d, reach))
    negative = [stack.pop_bits(1) for _ in escaped]
    lengths = [stack.pop_bits(5) for _ in escaped]
    low = [stack.pop_bits(min(length - 1, 15)) for length in lengths]
    high = [stack.pop_bits(max(length - 16, 0)) for length in lengths]
    for i, (n, d, reach) in enumerate(escaped):
        magnitude = reach + 2 ** (lengths[i] - 1) + low[i] + high[i] * 2**15
        y[n][d] = -magnitude if negative[i] else magnitude
    assert stack.x == 0
    assert not stack.words

    u = np.array(y, np.float64) + np.array(means, np.float64) / 4096
    features = u * frozen["frozen.step_D"].astype(np.float64) + frozen["offset_D"].astype(np.float64)
    return Contents((n_h, n_w), n_c, experts, z, y, features.astype(np.float32))


def split(counts: list[int]) -> list[list[int]]:
    """Tables written one after the other: each ends where its counts sum to 2**24."""
    tables: list[list[int]] = [[]]
    for count in counts:
        if sum(tables[-1]) == 2**24:
            tables.append([])
        tables[-1].append(count)
    return tables


def h_s(frozen: dict[str, np.ndarray], expert: int, z: list[int]) -> tuple[list[int], list[int]]:
    """The means, in units of 2**-12, and the levels of scale of one feature's elements."""
    x = np.array(z, np.int64) * 128
    n_layers = sum(name.startswith("frozen.h_s.weight_") for name in frozen)
    for layer in range(n_layers):
        w, m, c = (
            frozen[f"frozen.h_s.{kind}_{layer}"][expert].astype(np.int64) for kind in ("weight", "multiplier", "bias")
        )
        x = (m * (w @ x) + c + 2**23) // 2**24
        x = x.clip(0, 2**15 - 1) if layer < n_layers - 1 else x.clip(-(2**30 - 1), 2**30 - 1)
    mean, level = np.split(x, 2)
    return mean.tolist(), level.clip(0, 127).tolist()
