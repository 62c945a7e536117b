"""A Jetson's supply lines as jtop reports them: the one module that imports jetson-stats (the extra ``[jetson]``)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

INTERVAL_S = 0.5
"""The shortest that jtop's author advises."""


class Unavailable(Exception):  # noqa: N818
    """Why jtop cannot be read here."""


def rails() -> tuple[Callable[[], Mapping[str, float]], Callable[[], None]]:
    """A function that reads the watts of each line, and one that ends it; raises :class:`Unavailable` without jtop."""
    try:
        from jtop import jtop
    except ImportError:
        raise Unavailable("it is not installed: pip install 'tofc-harness[jetson]'") from None
    client = jtop(interval=INTERVAL_S)
    try:
        client.start()
        if not client.ok():
            raise Unavailable("its service has stopped")
        lines = dict(_lines(client.power))
    except Unavailable:
        raise
    except Exception as error:  # Besides its own it raises those of its queue, such as Empty if its service is busy.
        raise Unavailable(" ".join(str(error).split()) or type(error).__name__) from None
    if not lines:
        client.close()
        raise Unavailable("it reports no supply lines on this board")

    def read() -> Mapping[str, float]:
        try:
            return dict(_lines(client.power)) if client.ok(spin=True) else {}
        except Exception:  # It raises any error of its thread; a value that it cannot update is missing.
            return {}

    return read, client.close


def _lines(power: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The lines that an INA3221 measures, in watts.

    jtop removes the board's input from its rails and calls it ``tot`` with a name; a ``tot`` without one, as on an AGX
    Orin, is a sum of the others.
    """
    total = power.get("tot", {})
    named = {total["name"]: total} if "name" in total else {}
    for name, line in {**power.get("rail", {}), **named}.items():
        if line.get("type", "INA3221") == "INA3221" and line.get("online", True):
            yield name, line["power"] / 1000
