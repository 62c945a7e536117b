"""From a YAML file and ``--set key=value`` to a :class:`TrainingConfig`, or to one sentence a mistake."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.errors import ScenarioError
from harness.scenario.explain import sentences
from harness.scenario.load import placed
from harness.scenario.source import KeyPath, read
from harness.training.config import TrainingConfig

_FREE_TO_CHANGE = ("out", "log_every", "save_every", "threads", "workers")
"""What a training that is taken up again may have otherwise: no weight depends on it."""


def load(path: Path, settings: Sequence[str] = ()) -> TrainingConfig:
    """The configuration in a YAML file, with ``settings`` (``lora.rank=8``) in place of what it says.

    Raises ScenarioError with a sentence for every mistake, each naming the file and line, or the setting.
    """
    mapping, lines = read(path, what="configuration", keys="'name:' and 'backbone:'")
    given: dict[KeyPath, str] = {}
    for setting in settings:
        given[_set(mapping, setting)] = setting
    try:
        return TrainingConfig.model_validate(mapping)
    except ValidationError as error:
        found = []
        for key_path, sentence in sentences(error):
            mine = [setting for under, setting in given.items() if key_path[: len(under)] == under]
            found.append(f"--set {mine[0]}: {sentence}" if mine else placed(path, lines, key_path, sentence))
        raise ScenarioError("\n".join(found)) from None


def _set(mapping: dict[str, Any], setting: str) -> KeyPath:
    """Put ``a.b=value`` in its place; the value is read as YAML."""
    dotted, equals, text = setting.partition("=")
    *parents, last = dotted.split(".")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        equals = ""
    if not equals or not last:
        raise ScenarioError(f"--set {setting}: is not KEY=VALUE, such as lambda=0.1 or lora.rank=8")
    for key in parents:
        inner = mapping.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ScenarioError(f"--set {setting}: {key!r} has no keys inside it")
        mapping = inner
    mapping[last] = value
    return (*parents, last)


def as_given(config: TrainingConfig) -> dict[str, Any]:
    """All that decides the weights, as plain data in the words of the file, every default spelled out.

    Where a training puts its files, and how often, is left out.
    """
    given = config.model_dump(mode="json", by_alias=True, exclude=set(_FREE_TO_CHANGE))
    del given["prefit"]["cache"]
    return given


def config_hash(config: TrainingConfig) -> str:
    """A SHA-256 over all that decides the weights, in 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(as_given(config), sort_keys=True).encode()).hexdigest()[:16]
