"""From a scenario's file to a :class:`Scenario`, or to one sentence a mistake."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.scenario.explain import mistakes, sentences
from harness.scenario.model import Scenario
from harness.scenario.source import read


def load(path: Path) -> Scenario:
    """The scenario in a YAML file.

    Raises ScenarioError with a sentence for every mistake, each naming the file, the line, the key path and the value.
    """
    document = read(path)
    try:
        scenario = Scenario.model_validate(document.mapping, context={"folder": path.parent})
    except ValidationError as error:
        raise mistakes(path, document, sentences(error)) from None
    if document.mistakes:
        raise mistakes(path, document, iter(()))
    return scenario


def as_given(scenario: Scenario) -> dict[str, Any]:
    """The scenario as plain data, with every default spelled out and quantities in SI."""
    return scenario.model_dump(mode="json")


def scenario_hash(scenario: Scenario) -> str:
    """A SHA-256 over all that the scenario decides (its title does not), in 16 hexadecimal digits."""
    return hash_of(as_given(scenario))


def hash_of(given: Mapping[str, Any]) -> str:
    """:func:`scenario_hash` of the plain data that :func:`as_given` makes of a scenario."""
    decisive = {key: value for key, value in given.items() if key != "title"}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a scenario file, for editors that complete and check YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Scenario.model_json_schema()}
