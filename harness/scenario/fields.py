"""The field types of a scenario: quantities are text with a unit in YAML and SI numbers inside.

Each type parses its text, checks its range where it is declared, and describes the text to JSON Schema, so that an
editor can complete it.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from harness import catalog, units
from harness.errors import ScenarioError, shown, unknown_name
from harness.scenario.explain import UnknownKey


class Frozen(BaseModel):
    """The base of every part of a scenario: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _unknown_keys_know_the_known(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = {field.alias or name: None for name, field in cls.model_fields.items()}
        unknown = UnknownKey(tuple(known))
        return {key: value if key in known else unknown for key, value in data.items()}


def _quantity(parse: Callable[[object], float], example: str) -> tuple[Any, Any]:
    return BeforeValidator(parse), WithJsonSchema({"type": "string", "examples": [example]})


RateBps = Annotated[float, Field(gt=0), *_quantity(units.parse_rate_bps, "25 KB/s")]
SizeBytes = Annotated[int, Field(ge=0), *_quantity(units.parse_bytes, "64 KiB")]
DurationS = Annotated[float, Field(ge=0), *_quantity(units.parse_seconds, "20 ms")]
Share = Annotated[float, Field(ge=0, le=1), *_quantity(units.parse_share, "5 %")]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
"""A name that is also a folder's or a file's: lower-case letters, digits, dot, dash and underscore."""


def _shows_on_a_line(text: str) -> str:
    """Refuses characters that move a terminal's cursor or reverse a line, and invalid ones."""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _TURNS:
            raise ValueError(f"{shown(text)} holds {character!a}, which no line of text can show; leave it out")
    return text


_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
Line = Annotated[str, AfterValidator(_shows_on_a_line)]
"""Text that is printed and drawn unchanged: one line, without control characters."""


def repeated(names: Iterable[str]) -> str | None:
    """The first name that occurs twice."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _known(what: str, table: Mapping[str, str], wanted: Sequence[str] = ()) -> Any:
    """Checks a name of a table, or that a user's own object has the attributes ``wanted``."""

    def check(name: str) -> str:
        if name in table:
            return name
        try:
            found = catalog.load(what, name, table)
        except ScenarioError as error:
            raise ValueError(str(error)) from None
        if absent := [attribute for attribute in wanted if not hasattr(found, attribute)]:
            raise ValueError(f"{shown(name)} is not a {what}: it has no {', '.join(absent)}")
        if "Point" in wanted:
            _refuse_other_than_a_scheme(name, found)
        return name

    return AfterValidator(check)


def _refuse_other_than_a_scheme(name: str, found: Any) -> None:
    if not isinstance(found.kind, str) or not found.kind:
        raise ValueError(f"{shown(name)} is not a scheme: its kind is {shown(found.kind)}; a text is expected")
    # Any model may be given that makes a label of its parameters, as OperatingPoint does.
    if not (isinstance(found.Point, type) and issubclass(found.Point, BaseModel) and hasattr(found.Point, "label")):
        raise ValueError(
            f"{shown(name)} is not a scheme: its Point is {shown(found.Point)}; a subclass of "
            "harness.schemes.contract.OperatingPoint is expected"
        )


def _known_or_file(name: str) -> str:
    """A benchmark of the catalog, or the path of a user's own."""
    if name in catalog.BENCHMARKS or "/" in name or name.endswith((".tsv", ".csv")):
        return name
    raise ValueError(
        f"{unknown_name('benchmark', name, catalog.BENCHMARKS)}; or the path of a .tsv, a .csv or a folder/"
    )


BenchmarkName = Annotated[str, AfterValidator(_known_or_file)]
"""A name of the catalog, or the path of a file or folder; a relative path counts from the scenario's folder."""
BackboneName = Annotated[
    str, _known("backbone", catalog.BACKBONES, ("__call__", "digests", "features_of", "patches_of"))
]
SchemeName = Annotated[str, _known("scheme", catalog.SCHEMES, ("kind", "Point", "device_half", "server_half"))]
