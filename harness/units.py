"""Quantities as people write them, to and from SI.

Inside the harness a rate is in bit/s, a size in bytes, a time in seconds. A quantity in a scenario or on the command
line carries its unit (``25 KB/s``, ``1.5 Mbit/s``, ``20 ms``): a bare number is refused, because network rates are
easily wrong by a factor of eight. ``k`` is 1000; ``Ki`` is 1024. Absurd values are refused too: rates above 10^20
bit/s, sizes above 1 PB, times above 30 years.
"""

import re
from collections.abc import Mapping

from harness.errors import shown

_PREFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "Ki": 1024.0, "Mi": 1024.0**2, "Gi": 1024.0**3}

RATES_BPS: Mapping[str, float] = {
    **{
        f"{prefix}{unit}": scale * bits
        for prefix, scale in _PREFIXES.items()
        for unit, bits in (("bit/s", 1), ("bps", 1), ("B/s", 8), ("Bps", 8))
    },
    # Recorders write bits in small letters throughout; no rate is in thousandths of them.
    **{f"{prefix.lower()}{unit}": _PREFIXES[prefix] for prefix in "MG" for unit in ("bit/s", "bps")},
}
"""The units of a rate. A capital B is bytes; ``MBPS`` is refused, because it may be either."""
KNOWN_RATES = "bit/s, B/s, kbit/s, KB/s, Mbit/s, MB/s, Gbit/s, GB/s, KiB/s, MiB/s"

_SIZES_BYTES = {f"{prefix}B": scale for prefix, scale in _PREFIXES.items()}
_TIMES_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0, "h": 3600.0}

_FREQUENCIES_HZ = {"/s": 1.0, "/min": 1 / 60, "/h": 1 / 3600}

_SHARE = re.compile(r"\s*((?:\d+\.?\d*|\.\d+))\s*%\s*")
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z/]+)\s*")


def _parse(text: object, scales: Mapping[str, float], example: str, most: float) -> float:
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] not in scales:
        known = KNOWN_RATES if scales is RATES_BPS else ", ".join(scales)
        raise ValueError(f"{shown(text)} is not a number with one of the units {known} (such as {example!r})")
    value = float(match[1]) * scales[match[2]]
    if not 0 <= value <= most:
        raise ValueError(f"{shown(text)} is negative or too large; a value such as {example!r} is expected")
    return value


def parse_rate_bps(text: object) -> float:
    """A rate such as ``25 KB/s`` or ``1.5 Mbit/s``, in bit/s; raises ValueError for anything else."""
    return _parse(text, RATES_BPS, "25 KB/s", 1e20)


def is_rate(text: str) -> bool:
    """Whether a text is a rate, as where a file is expected."""
    try:
        parse_rate_bps(text)
    except ValueError:
        return False
    return True


def parse_bytes(text: object) -> int:
    """A size such as ``3000 B`` or ``64 KiB``, in whole bytes; raises ValueError for anything else."""
    value = _parse(text, _SIZES_BYTES, "64 KiB", 1e15)
    if value != int(value):
        raise ValueError(f"{shown(text)} is not a whole number of bytes")
    return int(value)


def parse_seconds(text: object) -> float:
    """A time such as ``20 ms`` or ``1.5 s``, in seconds; raises ValueError for anything else."""
    return _parse(text, _TIMES_S, "20 ms", 1e9)


def parse_per_second(text: object) -> float:
    """How often something happens, such as ``2 /s`` or ``30 /min``, in 1/s; raises ValueError for anything else."""
    return _parse(text, _FREQUENCIES_HZ, "2 /s", 1e9)


def parse_share(text: object) -> float:
    """A share such as ``5 %``, or a plain number from 0 to 1, as that number; raises ValueError for anything else."""
    match = _SHARE.fullmatch(text) if isinstance(text, str) else None
    value = float(match[1]) / 100 if match else text
    if type(value) not in (int, float) or not 0 <= value <= 1:  # type: ignore[operator]
        raise ValueError(f"{shown(text)} is not a share such as '5 %', from 0 to 100 %")
    return float(value)  # type: ignore[arg-type]


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    scale, unit = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    return f"{three_digits(value / scale)} {unit}"


def three_digits(value: float) -> str:
    """A number for people, with three digits and all those before the point: ``1840``, not ``1.84e+03``."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def format_rate(rate_bps: float) -> str:
    """A rate for people, in the bytes per second of the paper's figures: ``25 KB/s``."""
    return _scaled(rate_bps / 8, ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "KB/s"), (1.0, "B/s")))


def format_bytes(n_bytes: float) -> str:
    """A size for people: ``13.9 KB`` (1 KB = 1000 bytes)."""
    return _scaled(n_bytes, ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1.0, "B")))


def format_percent(share: float) -> str:
    """A share that somebody declared, with all its digits: ``92.5%``."""
    return f"{100 * share:.10g}%"


def format_seconds(seconds: float) -> str:
    """A time for people: ``83.7 ms``."""
    return _scaled(seconds, ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")))


def format_duration(seconds: float) -> str:
    """A waiting time, in two units at most: ``40 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(1, round(seconds))
    for unit, smaller, name, smaller_name in ((86_400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if (of_smaller := round(whole / smaller)) * smaller >= unit:
            most, rest = divmod(of_smaller, unit // smaller)
            return f"{most} {name} {rest} {smaller_name}" if rest else f"{most} {name}"
    return f"{whole} s"
