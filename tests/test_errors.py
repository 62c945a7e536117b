"""Error messages: suggestions for names, and text that is safe on a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DataError, ExitCode, placed, printable, shown, telling, unknown_name


def test_a_misspelt_name_gets_a_suggestion() -> None:
    """The closest known name is named, where one is close; all are listed."""
    assert unknown_name("scheme", "jpge", ["webp", "jpeg"]) == (
        "unknown scheme 'jpge'; did you mean 'jpeg'? known: jpeg, webp"
    )
    assert unknown_name("scheme", "gif", ["webp", "jpeg"]) == "unknown scheme 'gif'; known: jpeg, webp"


@pytest.mark.slow
@given(st.lists(st.integers(0, 0x10FFFF).map(chr)).map("".join))
def test_printed_text_moves_no_cursor_and_can_be_encoded(text: str) -> None:
    """Control characters and half surrogates become escapes; what a terminal shows stays as it is."""
    safe = printable(text)
    safe.encode()
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Cf") for c in safe)
    if text.isprintable():
        assert safe == text


def test_a_value_is_quoted_on_a_line() -> None:
    """However long it is, and also where Python refuses to write it."""
    assert len(shown("x" * 10**6)) == 60
    assert shown(10**5000) == "a number of more than 4300 digits"
    assert shown("a\nb") == r"'a\nb'"


def test_the_statuses_are_those_that_the_shell_expects() -> None:
    """Scripts that call the harness depend on them."""
    assert [(code.name, code.value) for code in ExitCode] == [
        ("FINE", 0), ("NEGATIVE", 1), ("BAD_INPUT", 2), ("NOTHING_MEASURED", 3), ("INTERRUPTED", 130),
    ]  # fmt: skip


def test_a_process_reports_its_place() -> None:
    """On entering and on leaving a place, however that ends; with ``alone`` only to the innermost function."""
    outer: list[str] = []
    inner: list[str] = []
    with telling(outer.append), placed("jpeg at -", "a"):
        assert outer == ["jpeg at -, sample a"]
    with telling(outer.append), telling(inner.append), pytest.raises(DataError), placed("webp at -"):
        raise DataError("cut")
    with telling(outer.append), telling(inner.append, alone=True), placed("tofc at -"):
        pass
    with placed("elic at -"):
        pass
    assert outer == ["jpeg at -, sample a", "", "webp at -", ""]
    assert inner == ["webp at -", "", "tofc at -", ""]


def test_a_stop_from_the_keyboard_says_where() -> None:
    """The innermost place, as its argument."""
    with pytest.raises(KeyboardInterrupt) as stopped, placed("jpeg at -"), placed("jpeg at -", "a"):
        raise KeyboardInterrupt
    assert stopped.value.args == ("jpeg at -, sample a",)
