"""What all commands share: how they are declared, what their help shows, and how Ctrl-C gets past the library."""

import enum
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class Interrupted(BaseException):
    """Ctrl-C; not a KeyboardInterrupt, which the library of the command line would answer with a status and no word."""


class Form(enum.StrEnum):
    """How what a command found is written."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    JSON = "json"


class EngineName(enum.StrEnum):
    """What work is spread over."""

    processes = "processes"
    ray = "ray"


class _Flags:
    """Help in which a flag, which takes no value, has no type beside it."""

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
        """Run the command that was asked for; raises Interrupted when it is stopped from the keyboard."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted from None


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
