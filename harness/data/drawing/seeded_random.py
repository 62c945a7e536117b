"""A seeded generator of random numbers, the same on every machine.

Only the raw words of PCG64 are used, whose stream numpy guarantees; numpy's own distributions may change.
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class SeededRandom:
    """Random whole numbers seeded by the words of a name: the same words give the same numbers."""

    def __init__(self, *name: str | int) -> None:
        digest = hashlib.sha256("/".join(str(word) for word in name).encode()).digest()
        self._bits = np.random.PCG64(int.from_bytes(digest[:16], "big"))

    def below(self, n: int) -> int:
        """A whole number in 0 .. n-1."""
        return int(self._bits.random_raw()) % n

    def between(self, low: int, high: int) -> int:
        """A whole number in low .. high, both included."""
        return low + self.below(high - low + 1)

    def one_in(self, n: int) -> bool:
        """True with a chance of one in ``n``."""
        return self.below(n) == 0

    def pick(self, things: Sequence[T]) -> T:
        """One of the things."""
        return things[self.below(len(things))]

    def shuffled(self, things: Sequence[T]) -> list[T]:
        """All the things in a random order (Fisher-Yates)."""
        out = list(things)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out

    def octets(self, *shape: int) -> NDArray[np.uint8]:
        """Uniform bytes of the given shape."""
        count = int(np.prod(shape))
        words = np.asarray(self._bits.random_raw((count + 7) // 8), dtype="<u8")
        return words.view(np.uint8)[:count].reshape(shape)
