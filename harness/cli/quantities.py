"""Quantities on the command line: text with a unit, as in a scenario."""

from collections.abc import Callable
from typing import Any

import typer

from harness import units


def quantity(parse: Callable[[object], float]) -> Callable[[str], Any]:
    """A parser for an option that prints the sentence of :mod:`harness.units` where the text is no such quantity."""

    def parsed(text: str) -> float:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parsed


def above_0(parse: Callable[[object], float]) -> Callable[[object], float]:
    """``parse`` for what nothing can be of length 0: a bin, a gap, a step."""

    def parsed(text: object) -> float:
        if (value := parse(text)) == 0:
            raise ValueError(f"{text!r} is not above 0")
        return value

    return parsed


RATE = {"parser": quantity(above_0(units.parse_rate_bps)), "metavar": "RATE"}
SECONDS = {"parser": quantity(units.parse_seconds), "metavar": "TIME"}
SOME_SECONDS = {"parser": quantity(above_0(units.parse_seconds)), "metavar": "TIME"}
PER_SECOND = {"parser": quantity(above_0(units.parse_per_second)), "metavar": "RATE"}
SHARE = {"parser": quantity(units.parse_share), "metavar": "SHARE"}
SIZE = {"parser": quantity(above_0(units.parse_bytes)), "metavar": "SIZE"}
