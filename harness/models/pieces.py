"""A tokenizer for random weights, where the checkpoint's own is not on the machine."""

import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

_PIECE = re.compile(r"<\|\w+\|>|'\w{1,2}| ?[^\W\d_]+|\d| ?(?:[^\s\w]|_)+|\s+")


def pieces(text: str) -> list[str]:
    """The pieces of a text; put together they are the text."""
    return _PIECE.findall(text)


class Pieces(NamedTuple):
    """The ids of one text."""

    ids: list[int]


class PieceTokenizer:
    """One id a word, digit, run of punctuation or of spaces: about as many as byte-pair encoding makes of English.

    A model with random weights answers with noise; its latency depends only on the number of tokens. An id is a
    checksum of its piece, and is decoded as its number.
    """

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def encode(self, text: str, add_special_tokens: bool = False) -> Pieces:  # noqa: ARG002
        """The ids of a text's pieces."""
        return Pieces([self.token_to_id(piece) for piece in pieces(text)])

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:  # noqa: ARG002
        """The ids as words ``<id>``."""
        return " ".join(f"<{token}>" for token in ids)

    def token_to_id(self, token: str) -> int:
        """The id of one piece."""
        return zlib.crc32(token.encode()) % self._vocabulary
