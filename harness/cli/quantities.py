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


RATE = {"parser": quantity(units.parse_rate_bps), "metavar": "RATE"}
SECONDS = {"parser": quantity(units.parse_seconds), "metavar": "TIME"}
