"""Turns a validation error into sentences: where, what was found, what would be right."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.errors import MOST_SENTENCES, ScenarioError, in_lines, meant, shown
from harness.scenario.source import COMMAND_LINE, Document, KeyPath


class UnknownKey:
    """Stands in for the value of a key that a part does not have, so that the other keys are still checked."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = known


class NestedError(ValueError):
    """A validation error of a part that is validated by hand; ``under`` is where the part hangs."""

    def __init__(self, under: KeyPath, cause: ValidationError) -> None:
        super().__init__(str(cause))
        self.under = under
        self.cause = cause


class SeveralNestedError(ValueError):
    """The validation errors of several such parts."""

    def __init__(self, parts: Sequence[NestedError]) -> None:
        super().__init__(f"{len(parts)} parts are wrong")
        self.parts = parts


def mistakes(
    path: Path,
    document: Document,
    found: Iterator[tuple[KeyPath, str]],
    alone: Collection[tuple[KeyPath, str]] | None = None,
) -> ScenarioError:
    """The error with every mistake of a file, each once and at its line, in the order of lines.

    ``found`` are the mistakes of a validation, by key path; a line that reading has already reported is not reported
    again. Where the command line changed the document, ``alone`` are those that it has without: only these are the
    file's.
    """
    at_line = list(document.mistakes)
    read = {line for line, _ in at_line}
    # Many mistakes are often one, repeated: only as many sentences are made as are shown.
    first, rest = list(itertools.islice(found, MOST_SENTENCES)), sum(1 for _ in found)
    for key_path, sentence in first:
        line, where = _place(document, key_path)
        if alone is not None and (key_path, sentence) not in alone:
            line = COMMAND_LINE
        if line not in read:
            at_line.append((line, f"{where + ': ' if where else ''}{sentence}"))
    told = list(dict.fromkeys(sorted(at_line, key=lambda mistake: mistake[0])))
    sentences_ = [
        f"{path}, as the command line changes it: {sentence}" if line == COMMAND_LINE else f"{path}:{line}: {sentence}"
        for line, sentence in told
    ]
    return ScenarioError(in_lines(sentences_, str(path), rest))


def sentences(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    """The key path and the sentence of every mistake that a validation found."""
    details = error.errors(include_url=False)
    for detail in details:
        if detail["type"] == "too_short" and any(_is_inside(other, detail) for other in details):
            continue
        inner = detail.get("ctx", {}).get("error")
        nested = (
            inner.parts if isinstance(inner, SeveralNestedError) else [inner] if isinstance(inner, NestedError) else []
        )
        for part in nested:
            for key_path, sentence in sentences(part.cause):
                yield (*_keys(detail), *part.under, *key_path), sentence
        if not nested:
            yield _keys(detail), _sentence(detail)


def _place(document: Document, key_path: KeyPath) -> tuple[int, str]:
    """The line of a key path and its name; pydantic's own steps (the tag of a union) are not in the file."""
    known: KeyPath = ()
    for key in key_path[:-1]:
        known = (*known, key) if (*known, key) in document.lines else known
    full = (*known, *key_path[-1:])
    return document.lines.get(full, document.lines[known]), ".".join(str(key) for key in full)


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
    if isinstance(unknown := detail["input"], UnknownKey):
        name = str(detail["loc"][-1])
        return f"unknown key; {meant(name, unknown.known)}known: {', '.join(unknown.known) or 'none'}"
    if detail["type"] in ("value_error", "assertion_error"):
        return message
    return f"{_shown(detail['input'])} is not right: {message[0].lower()}{message[1:]}"


def _shown(value: Any) -> str:
    return type(value).__name__ if isinstance(value, BaseModel) else shown(value)
