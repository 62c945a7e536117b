"""The tokenizer of random weights."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.models.pieces import PieceTokenizer, pieces

patient = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine is no reason to fail."""

PIECES = PieceTokenizer(152_000)


@pytest.mark.slow
@patient
@given(st.text(max_size=60))
def test_ids_are_in_the_vocabulary_and_repeatable(text: str) -> None:
    """Any text has ids of the vocabulary, the same every time, at most one per character."""
    ids = PIECES.encode(text).ids
    assert ids == PIECES.encode(text).ids
    assert all(0 <= token < 152_000 for token in ids)
    assert len(ids) <= len(text)


def test_words_count_once() -> None:
    """Words, digits and punctuation are a token each, and so is a template's token."""
    assert len(PIECES.encode("How many red cars?").ids) == 5
    assert len(PIECES.encode("12").ids) == 2
    assert PIECES.encode("<|im_end|>").ids == [PIECES.token_to_id("<|im_end|>")]
    assert PIECES.decode([5, 7]) == "<5> <7>"


@patient
@given(st.text(max_size=60) | st.lists(st.sampled_from(["a", " b", "?", "9", "_", "<|im_end|>", "it's"])).map("".join))
def test_no_character_is_lost(text: str) -> None:
    """The pieces joined are the text, so every character counts."""
    assert "".join(pieces(text)) == text
