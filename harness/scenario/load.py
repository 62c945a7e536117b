"""From a scenario's file to a :class:`Scenario`, or to one sentence a mistake."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.errors import ScenarioError
from harness.scenario.explain import mistakes, sentences
from harness.scenario.model import Scenario
from harness.scenario.replay import Replay
from harness.scenario.source import Document, KeyPath, assigned, override, read

_UNITS = {"_bps": "bit/s", "_bytes": "B", "_hz": "/s", "_s": "s"}
"""How a quantity's field ends, and the unit of its number."""

_PIXELS = "_px"
"""How the field of a number ends that is written without a unit, and without this ending."""


def load(path: Path, overrides: Sequence[str] = (), *, stages: Collection[str] | None = None) -> Scenario:
    """The scenario in a YAML file, with ``overrides`` such as ``measure.repeats=2`` applied.

    ``stages`` are the server stages of the run that the scenario replays, if there is one: batches may name them.

    Raises ScenarioError with a sentence for every mistake, each naming the file, the line, the key path and the value.
    """
    for assignment in overrides:
        assigned(assignment)
    document = read(path)
    for assignment in overrides:
        override(document, assignment)
    context = {"folder": path.parent, "stages": stages}
    try:
        scenario = Scenario.model_validate(document.mapping, context=context)
    except ValidationError as error:
        alone = _mistakes_of(read(path), context) if overrides else None
        raise mistakes(path, document, sentences(error), alone) from None
    if document.mistakes:
        raise mistakes(path, document, iter(()))
    return scenario


def _mistakes_of(document: Document, context: Mapping[str, Any]) -> list[tuple[KeyPath, str]]:
    """The mistakes of a document as it is in its file, by key path."""
    try:
        Scenario.model_validate(document.mapping, context=context)
    except ValidationError as error:
        return list(sentences(error))
    return []


def as_given(scenario: Scenario) -> dict[str, Any]:
    """The scenario as plain data, with every default included and quantities in SI."""
    given = scenario.model_dump(mode="json")
    # A scenario without the section keeps the hash that it had before the section existed.
    if given["estimate"] is None:
        del given["estimate"]
    return given


def as_written(given: Mapping[str, Any]) -> dict[str, Any]:
    """The plain data that :func:`as_given` makes of a scenario as a file has them: quantities with their units.

    Dumped as YAML it loads as the same scenario, if the files that it names are beside it.
    """
    # A point's parameters are a scheme's own, without units.
    written = {
        name: value if name == "pipelines" else _with_units(value)
        for name, value in given.items()
        if value not in (None, [])
    }
    if isinstance(measure := written.get("measure"), dict):
        # Each of the two ways to end a measurement has a key that the other refuses.
        measure.pop("at_most" if measure.get("precision") is None else "timed_samples", None)
    return written


def replay_from_given(given: Mapping[str, Any], folder: Path) -> Replay:
    """The replay section of a scenario that :func:`as_given` made plain data of; relative paths count from ``folder``.

    Raises ScenarioError for other data, such as after a change of the section's fields.
    """
    try:
        return Replay.model_validate(_with_units(given["replay"]), context={"folder": folder})
    except (ValidationError, KeyError) as error:
        raise ScenarioError(
            f"a run's replay section cannot be read again: {' '.join(str(error).split())[:300]}"
        ) from None


def _with_units(data: Any) -> Any:
    """A section's plain data as it is written: quantities as text, under their names without a unit."""
    if isinstance(data, list):
        return [_with_units(item) for item in data]
    if not isinstance(data, dict):
        return data
    written = {}
    for name, value in data.items():
        suffix = next((suffix for suffix in _UNITS if name.endswith(suffix)), None)
        if isinstance(value, dict):
            # Among the keys of parts are pipelines' names, which may end like a quantity's.
            written[name] = _with_units(value)
        elif suffix is None:
            written[name.removesuffix(_PIXELS)] = _with_units(value)
        else:
            written[name.removesuffix(suffix)] = None if value is None else f"{value!r} {_UNITS[suffix]}"
    return written


def scenario_hash(scenario: Scenario) -> str:
    """A SHA-256 over everything in the scenario that decides a result (all but its title), in 16 hexadecimal digits."""
    return hash_of(as_given(scenario))


def hash_of(given: Mapping[str, Any]) -> str:
    """:func:`scenario_hash` of the plain data that :func:`as_given` makes of a scenario."""
    decisive = {key: value for key, value in given.items() if key != "title"}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a scenario file, for editors that complete and check YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Scenario.model_json_schema()}
