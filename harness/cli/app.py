"""What all commands share: how they are declared, their quantities with units, and what Ctrl-C prints."""

import enum
import os
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from harness import units
from harness.errors import shown
from harness.files import UNFINISHED


class Interrupted(BaseException):
    """Ctrl-C, and where it came; not a KeyboardInterrupt, for which the command-line library would say nothing."""


class Form(enum.StrEnum):
    """How what a command found is written."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    JSON = "json"


class ExecutorName(enum.StrEnum):
    """What runs the work."""

    processes = "processes"
    ray = "ray"


class _Flags:
    """Help that prints no type beside a flag, which takes no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters of a command, ``--help`` included."""
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""
        return params


class Command(_Flags, TyperCommand):
    """A command."""


class Group(_Flags, TyperGroup):
    """Commands under a name."""

    def invoke(self, ctx: Any) -> Any:
        """Run the given command; raises Interrupted when it is stopped from the keyboard."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted(*error.args) from None


def group(name: str, help_text: str) -> typer.Typer:
    """An application whose commands look alike."""
    return typer.Typer(
        name=name,
        cls=Group,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        help=help_text,
    )


def quantity(parse: Callable[[object], float]) -> Callable[[str], Any]:
    """A parser for an option, which refuses other text with the message of :mod:`harness.units`."""

    def parsed(text: str) -> float:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parsed


def above_0(parse: Callable[[object], float]) -> Callable[[object], float]:
    """``parse`` for lengths that cannot be 0: a bin, a gap, a step."""

    def parsed(text: object) -> float:
        if (value := parse(text)) == 0:
            raise ValueError(f"{text!r} is not above 0")
        return value

    return parsed


_MOST_NAME_BYTES = 128
"""The longest name of a run; file systems allow 255 bytes, and the folder of an unfinished run has a longer name."""


def folder_name(text: str | None) -> str | None:
    """A run's name from an option; raises BadParameter if it is not the name of a single folder."""
    if text is None:
        return None
    is_name = text.strip() == text != "" and text.isprintable() and not text.startswith((".", "-", UNFINISHED))
    if not is_name or "/" in text or "\\" in text or len(os.fsencode(text)) > _MOST_NAME_BYTES:
        raise typer.BadParameter(
            f"{shown(text)} is not the name of a folder; give a name such as smoke-2, "
            "and its parent folder with --results"
        )
    return text


RATE = {"parser": quantity(above_0(units.parse_rate_bps)), "metavar": "RATE"}
SECONDS = {"parser": quantity(units.parse_seconds), "metavar": "TIME"}
SOME_SECONDS = {"parser": quantity(above_0(units.parse_seconds)), "metavar": "TIME"}
PER_SECOND = {"parser": quantity(above_0(units.parse_per_second)), "metavar": "RATE"}
SHARE = {"parser": quantity(units.parse_share), "metavar": "SHARE"}
SIZE = {"parser": quantity(above_0(units.parse_bytes)), "metavar": "SIZE"}
