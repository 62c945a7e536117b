"""Turns a validation error into sentences: where, what was found, what would be right."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.scenario.source import KeyPath


def sentences(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    """The key path and the sentence of every mistake that a validation found."""
    details = error.errors()
    for detail in details:
        if detail["type"] == "too_short" and any(_is_inside(other, detail) for other in details):
            continue
        inner = detail.get("ctx", {}).get("error")
        if isinstance(inner, NestedError):
            for key_path, sentence in sentences(inner.cause):
                yield (*_keys(detail), *inner.under, *key_path), sentence
        elif detail["type"] == "unknown_key":
            yield (*_keys(detail), detail["ctx"]["key"]), detail["msg"]
        else:
            yield _keys(detail), _sentence(detail)


class NestedError(ValueError):
    """A validation error of a part that is validated by hand; ``under`` is where the part hangs."""

    def __init__(self, under: KeyPath, cause: ValidationError) -> None:
        super().__init__(str(cause))
        self.under = under
        self.cause = cause


def _is_inside(detail: ErrorDetails, whole: ErrorDetails) -> bool:
    """Whether a mistake is in an item of a sequence, which pydantic then also calls too short."""
    depth = len(whole["loc"])
    return len(detail["loc"]) > depth and detail["loc"][:depth] == whole["loc"]


def _keys(detail: ErrorDetails) -> KeyPath:
    return tuple(detail["loc"])


def _sentence(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        return "is missing"
    if detail["type"] in ("value_error", "assertion_error"):
        return message
    return f"{_shown(detail['input'])} is not right: {message[0].lower()}{message[1:]}"


def _shown(value: Any) -> str:
    text = type(value).__name__ if isinstance(value, BaseModel) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
