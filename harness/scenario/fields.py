"""The field types of a scenario: quantities are text with a unit in YAML and SI numbers inside.

Each type parses its text, checks its range where it is declared, and tells JSON Schema what the text looks like, so
that an editor can complete it.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from harness import catalog, units
from harness.errors import unknown_name


class Frozen(BaseModel):
    """The base of every part of a scenario: immutable, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in data:
                if key not in known:
                    listed = ", ".join(known) or "none"
                    raise PydanticCustomError(
                        "unknown_key", "unknown key; known: {known}", {"key": key, "known": listed}
                    )
        return data


def _quantity(parse: Callable[[object], float], example: str) -> tuple[Any, Any]:
    return BeforeValidator(parse), WithJsonSchema({"type": "string", "examples": [example]})


RateBps = Annotated[float, Field(gt=0), *_quantity(units.parse_rate_bps, "25 KB/s")]
SizeBytes = Annotated[int, Field(ge=0), *_quantity(units.parse_bytes, "64 KiB")]
DurationS = Annotated[float, Field(ge=0), *_quantity(units.parse_seconds, "20 ms")]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
"""A name that is also a folder's or a file's: lower-case letters, digits, dot, dash and underscore."""


def _known(what: str, table: Mapping[str, str]) -> Any:
    def check(name: str) -> str:
        if name not in table:
            raise ValueError(unknown_name(what, name, table))
        return name

    return AfterValidator(check)


BenchmarkName = Annotated[str, _known("benchmark", catalog.BENCHMARKS)]
BackboneName = Annotated[str, _known("backbone", catalog.BACKBONES)]
SchemeName = Annotated[str, _known("scheme", catalog.SCHEMES)]
