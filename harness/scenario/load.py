"""From a scenario's file to a :class:`Scenario`, or to one sentence a mistake."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import ScenarioError
from harness.scenario.explain import sentences
from harness.scenario.model import Scenario
from harness.scenario.source import KeyPath, read


def load(path: Path) -> Scenario:
    """The scenario in a YAML file.

    Raises ScenarioError with a sentence for every mistake, each naming the file, the line, the key path and the value.
    """
    mapping, lines = read(path)
    try:
        return Scenario.model_validate(mapping, context={"folder": path.parent})
    except ValidationError as error:
        found = [placed(path, lines, key_path, sentence) for key_path, sentence in sentences(error)]
        raise ScenarioError("\n".join(found)) from None


def placed(path: Path, lines: Mapping[KeyPath, int], key_path: KeyPath, sentence: str) -> str:
    """A sentence behind its file, line and key path; pydantic's own steps (the tag of a union) are not in the file."""
    known: KeyPath = ()
    for key in key_path[:-1]:
        known = (*known, key) if (*known, key) in lines else known
    full = (*known, *key_path[-1:])
    where = ".".join(str(key) for key in full)
    return f"{path}:{lines.get(full, lines[known])}: {where + ': ' if where else ''}{sentence}"


def as_given(scenario: Scenario) -> dict[str, Any]:
    """The scenario as plain data, with every default spelled out and quantities in SI."""
    return scenario.model_dump(mode="json")


def scenario_hash(scenario: Scenario) -> str:
    """A SHA-256 over all that the scenario decides (its title does not), in 16 hexadecimal digits."""
    decisive = {key: value for key, value in as_given(scenario).items() if key != "title"}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a scenario file, for editors that complete and check YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Scenario.model_json_schema()}
