"""Reads a scenario's YAML so that a mistake can be shown at its line.

YAML holds data only: no tags, no aliases that expand without bound, no key given twice. Scalars are those of YAML 1.2's
core schema (yaml.org/spec/1.2.2, 10.3): ``1e-3`` is a number, ``010`` is ten, and ``1:30``, ``yes`` and ``2024-05-12``
are words.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from harness import files
from harness.errors import ScenarioError, shown

KeyPath = tuple[str | int, ...]

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 64
_MAX_DIGITS = 300
"""The largest double has 309 digits."""

_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **{f"{sign}.{word}": float(f"{sign}inf") for sign in ("", "+", "-") for word in ("inf", "Inf", "INF")},
}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BASES = ((re.compile(r"0o[0-7]+"), 8), (re.compile(r"0x[0-9a-fA-F]+"), 16))
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


COMMAND_LINE = 0
"""The line of a key path that no file has: it was given on the command line."""


class Document(NamedTuple):
    """A mapping as plain data, the line (from 1) of every key path in it, and mistakes: each a line and a sentence."""

    mapping: dict[str, Any]
    lines: dict[KeyPath, int]
    mistakes: list[tuple[int, str]]


class Kind(NamedTuple):
    """A kind of YAML or JSON file of the harness: its name, and the keys by which it is recognised."""

    what: str
    begins: str
    """The keys that a file begins with, in words."""
    own: frozenset[str]
    """Keys at the top that no other kind has."""
    taken_by: str
    """What to do with a file of this kind, in words."""


SCENARIO = Kind(
    "scenario",
    "'name:' and 'benchmark:'",
    frozenset(("benchmark", "benchmarks", "samples", "pipelines", "measure", "selection", "replay", "stand_in")),
    "'harness run' and 'harness check' take it",
)
TRAINING = Kind(
    "training configuration",
    "'name:' and 'backbone:'",
    frozenset(("data", "clusters", "lambda", "codec", "lora", "prefit", "batch", "steps", "epochs", "out")),
    "'harness train' takes it, and 'harness train --dry-run' checks it",
)
CLAIMS = Kind(
    "claims file", "'title:' and 'claims:'", frozenset(("studies", "claims")), "'harness claims --claims' takes it"
)
MANIFEST = Kind(
    "run's manifest",
    "'schema_version:'",
    frozenset(("schema_version", "sessions", "status", "tables")),
    "commands that read a run take the folder that it is in",
)
_KINDS = (SCENARIO, TRAINING, CLAIMS, MANIFEST)


def read(path: Path, kind: Kind = SCENARIO) -> Document:
    """The mapping in a YAML file, with the mistakes that leave the rest of it readable.

    Raises ScenarioError, naming the file and the line, for what is not one YAML mapping, and for a file of another
    ``kind`` than is expected.
    """
    what = kind.what
    try:
        text = files.read(path, at_most=_MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        if (path / "manifest.json").is_file():
            raise ScenarioError(f"{path}: is a run's folder; a {what} (a YAML file) is expected") from None
        wanted = f"{suggested(path)}a {what} (a YAML file)"
        raise ScenarioError(f"{path}: cannot be read: {files.why(error, wanted)}") from None
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: byte {error.start} is not UTF-8; a {what} is UTF-8 text") from None
    reader = _Reader(path, what)
    try:
        found = reader.document(_events(text))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ScenarioError(f"{path}:{line}: is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ScenarioError(f"{path}: holds no mapping; a {what} begins with keys such as {kind.begins}")
    if (other := _other_kind(found, kind)) is not None:
        raise ScenarioError(f"{path}: is a {other.what}, and a {what} is expected here; {other.taken_by}")
    return Document(found, reader.lines, reader.mistakes)


def _other_kind(mapping: Mapping[str, Any], kind: Kind) -> Kind | None:
    """Another kind than the expected one, if most keys by which kinds are recognised are its own, and at least two."""
    most = max(_KINDS, key=lambda one: len(one.own & mapping.keys()))
    n_expected, n_most = (len(one.own & mapping.keys()) for one in (kind, most))
    return most if n_most >= 2 and n_most > 2 * n_expected else None


def suggested(path: Path) -> str:
    """``did you mean scenarios/smoke.yaml? `` where ``path`` is only its name; nothing where no such file is there."""
    name = path.name.removesuffix(".yaml")
    places = (Path(folder) / f"{name}.yaml" for folder in ("scenarios", "training", "examples"))
    meant = next((place for place in places if not path.exists() and place.is_file()), None)
    return "" if meant is None else f"did you mean {meant}? "


def value(text: str) -> Any:
    """One value as YAML writes it, such as ``1e-3`` or ``[1, 2]``; ValueError for anything else."""
    reader = _Reader(Path(), "value")
    try:
        found = reader.document(_events(text))
    except (yaml.YAMLError, ScenarioError) as error:
        raise ValueError(str(error)) from None
    if reader.mistakes:
        raise ValueError(reader.mistakes[0][1])
    return found


def assigned(assignment: str) -> tuple[list[str], Any]:
    """The keys and the value of ``key.path=value``; the value is YAML's. Raises ScenarioError for anything else."""
    path, equals, text = assignment.partition("=")
    if not equals or not all(keys := path.split(".")):
        raise ScenarioError(f"{shown(assignment)} is not an assignment such as measure.repeats=2")
    try:
        return keys, value(text)
    except ValueError as error:
        raise ScenarioError(f"{shown(assignment)}: {error}") from None


def override(document: Document, assignment: str) -> None:
    """Puts the value of ``key.path=value`` into a document.

    In a list an item is named by its place, from 0, or by the ``name`` or ``scheme`` that it has:
    ``pipelines.jpeg.points=[{quality: 40}]``. Raises ScenarioError for anything but an assignment, for a path through
    anything but a mapping or list, and for an item that a list does not have.
    """
    keys, found = assigned(assignment)
    inside: Any = document.mapping
    taken: KeyPath = ()
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(inside, list):
            place: str | int = _item(inside, key, assignment)
        elif isinstance(inside, dict):
            place = key
        else:
            raise ScenarioError(f"{shown(assignment)}: {'.'.join(keys[:depth])} is {shown(inside)}, which has no parts")
        taken = (*taken, place)
        document.lines.setdefault(taken, COMMAND_LINE)
        if last:
            inside[place] = found
        else:
            inside = inside.setdefault(place, {}) if isinstance(inside, dict) else inside[place]
    for known in [known for known in document.lines if known[: len(taken)] == taken]:
        del document.lines[known]
    document.lines[taken] = COMMAND_LINE


def _item(items: list[Any], key: str, assignment: str) -> int:
    """The place of a list's item that is named by its place, or by its own name."""
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    names = [item.get("name", item.get("scheme")) if isinstance(item, dict) else None for item in items]
    if key in names:
        return names.index(key)
    known = ", ".join(map(str, filter(None, names))) or "none by name"
    raise ScenarioError(f"{shown(assignment)}: {shown(key)} is not one of the {len(items)} items here; known: {known}")


def _events(text: str) -> Iterator[Any]:
    # The parser in C is fifty times as fast; both give the same events.
    return yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _scalar(text: str) -> Any:
    """What a plain scalar stands for by YAML 1.2's core schema; ValueError for a number too long for any use."""
    if text in _WORDS:
        return _WORDS[text]
    base = next((base for form, base in _BASES if form.fullmatch(text)), 10 if _INTEGER.fullmatch(text) else 0)
    if (base or _FLOAT.fullmatch(text)) and len(text) > _MAX_DIGITS:
        raise ValueError(f"{shown(text)} has {len(text)} characters; a number has at most {_MAX_DIGITS}")
    if base:
        return int(text[2:], base) if base != 10 else int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


class _Reader:
    """From the parser's events to plain data."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.lines: dict[KeyPath, int] = {}
        self.mistakes: list[tuple[int, str]] = []

    def document(self, events: Iterator[Any]) -> Any:
        """The one document of a stream."""
        self._events = events
        documents = 0
        found = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._stop(event, f"a second document begins here; a {self.what} is a single one")
                found = self._node(next(events), ())
        return found

    def _node(self, event: Any, key_path: KeyPath) -> Any:
        self.lines[key_path] = event.start_mark.line + 1
        if len(key_path) > _MAX_DEPTH:
            self._stop(event, f"is nested more than {_MAX_DEPTH} levels deep, the limit for a {self.what}")
        if isinstance(event, yaml.AliasEvent):
            return self._mistake(event, f"aliases are not used here; write out what *{event.anchor} stands for")
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._mistake(event, f"tags are not used here; leave {shown(tag)} out")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(key_path)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(item, (*key_path, len(items))))
            return items
        return self._scalar(event)

    def _scalar(self, event: Any) -> Any:
        if event.style or event.tag is not None:
            return event.value
        try:
            return _scalar(event.value)
        except ValueError as error:
            return self._mistake(event, str(error))

    def _mapping(self, key_path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            name = self._scalar(key) if isinstance(key, yaml.ScalarEvent) else None
            line = key.start_mark.line + 1
            child = (*key_path, name if isinstance(name, str) else f"<key on line {line}>")
            if not isinstance(key, yaml.ScalarEvent):
                self._stop(key, "a key is not text; keys are names such as 'benchmark'")
            if not isinstance(name, str):
                self._mistake(key, f"the key {key.value} is not text; keys are names such as 'benchmark'")
            again = child in self.lines
            if again:
                self._mistake(key, f"the key {shown(name)} is given twice; the first is on line {self.lines[child]}")
                child = (*child, f"again on line {line}")
            value = self._node(next(self._events), child)
            if isinstance(name, str) and not again:
                found[name] = value
                self.lines[child] = line
        return found

    def _mistake(self, event: Any, sentence: str) -> None:
        self.mistakes.append((event.start_mark.line + 1, sentence))

    def _stop(self, event: Any, sentence: str) -> None:
        self._mistake(event, sentence)
        raise ScenarioError("\n".join(f"{self.path}:{line}: {sentence}" for line, sentence in self.mistakes))
