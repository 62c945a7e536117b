"""Quantities as people write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import units


@pytest.mark.parametrize(
    ("text", "rate_bps"),
    [
        ("25 KB/s", 200e3),
        ("1.5 Mbit/s", 1.5e6),
        ("1 KiB/s", 8192.0),
        ("200kbps", 200e3),
        ("3 B/s", 24.0),
        ("1e3 bit/s", 1e3),
        ("5 MBps", 40e6),
        ("5mbps", 5e6),
        ("2 gbit/s", 2e9),
    ],
)
def test_a_rate_is_in_bits_per_second(text: str, rate_bps: float) -> None:
    """Bytes count eight bits; k is 1000 and Ki is 1024."""
    assert units.parse_rate_bps(text) == rate_bps


@pytest.mark.parametrize(
    "text",
    [
        "25",
        25,
        None,
        "25 KB",
        "25 kg/s",
        "-1 KB/s",
        "nan KB/s",
        "1e999 B/s",
        "1e30 B/s",
        "5 MBPS",
        "KB/s",
        "",
        "1 2 B/s",
    ],
)
def test_what_is_not_a_rate_is_refused_with_an_example(text: object) -> None:
    """A bare number, another unit, a negative or infinite value: the message shows it and what would be right."""
    with pytest.raises(ValueError, match="25 KB/s") as caught:
        units.parse_rate_bps(text)
    assert repr(text) in str(caught.value)


def test_a_size_is_a_whole_number_of_bytes() -> None:
    """Half a byte does not exist."""
    assert units.parse_bytes("1.5 KiB") == 1536
    with pytest.raises(ValueError, match="whole number"):
        units.parse_bytes("0.3 B")


@given(st.floats(min_value=1e-3, max_value=1e12))
def test_a_formatted_rate_parses_back_to_three_digits(rate_bps: float) -> None:
    """What is shown to people is what they may write."""
    assert math.isclose(units.parse_rate_bps(units.format_rate(rate_bps)), rate_bps, rel_tol=6e-3)


@given(st.floats(min_value=1e-6, max_value=1e5))
def test_a_formatted_time_parses_back_to_three_digits(seconds: float) -> None:
    """The same for durations."""
    assert math.isclose(units.parse_seconds(units.format_seconds(seconds)), seconds, rel_tol=6e-3)


@pytest.mark.parametrize(("share", "text"), [(0.57, "57%"), (0.925, "92.5%"), (0.9999, "99.99%"), (0.92 - 0.05, "87%")])
def test_a_declared_share_is_written_with_all_its_digits(share: float, text: str) -> None:
    """It is never rounded to another one."""
    assert units.format_percent(share) == text
